"""Processes, signals, sockets: gunicorn's settings and the uvicorn worker class."""
