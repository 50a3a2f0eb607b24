"""The OpenAPI document, gathered from the routes and the types of their bodies."""
