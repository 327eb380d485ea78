"""Calls to other services: one shared pool, a deadline, retries, and a circuit breaker a service.

Only GET: it may be repeated safely. A feature makes one `Downstream` a service.
"""

from app.core.client.client import Downstream, new_pool

__all__ = ["Downstream", "new_pool"]
