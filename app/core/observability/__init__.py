"""Logs, metrics, trace ids and traces."""
