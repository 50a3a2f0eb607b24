"""One link between an orchestrator and a node: a WebSocket, and what is said over it."""
