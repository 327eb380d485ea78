"""The items service: `main` composes `items` and `health` on top of `core`."""

__version__ = "0.1.0"
