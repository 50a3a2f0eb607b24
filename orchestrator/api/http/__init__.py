"""What the routes stand on: parameters, bodies, files, event streams, refusals."""
