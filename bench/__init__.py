"""Measures the service and its peers side by side: `scripts/bench`, `docs/performance.md`."""
