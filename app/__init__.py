"""The service: `main` composes the features on top of `core`."""

__title__ = "items-service"

__version__ = "0.1.0"
