"""What the server counts for Prometheus while it works; what is read when somebody asks is in
`orchestrator.api.routes.metrics`."""
