"""What both sides stand on: values, ports, actors, stores, processes and the wire. Imports neither side."""
