"""The OpenAPI document, derived from the routes, and the pages that show it."""
