"""The HTTP edge that server and node share: the app, the server loop, refusals, TLS."""
