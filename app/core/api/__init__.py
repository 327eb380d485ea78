"""What a router imports: the route class, types, conditional requests, pagination, idempotency, OpenAPI."""
