"""The machine under the node: load, health, inotify, and joining an orchestrator."""
