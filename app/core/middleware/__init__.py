"""Pure ASGI middleware, one purpose a module, and the route table that several of them ask."""
