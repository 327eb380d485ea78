"""Processes, signals and sockets: gunicorn's settings and the uvicorn worker class."""
