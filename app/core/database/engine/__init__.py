"""Connections: dialect, connector, pool, executor, watchdog, replica."""
