"""What can be set about the server."""
