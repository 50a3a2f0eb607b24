"""The routes, a file for each subject; each is described where it stands."""
