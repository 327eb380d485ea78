"""Limits of what one process takes on at a time: the size of a body, requests in flight, open streams."""
