"""Calls to other services: one shared pool, a deadline, retries, and a circuit breaker for each service.

A GET may be sent again, a write only with an idempotency key. A feature creates one `Downstream` for each service.
"""

from app.core.client.client import Downstream, new_pool

__all__ = ["Downstream", "new_pool"]
