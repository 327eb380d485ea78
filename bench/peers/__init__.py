"""The services that ours is compared with, written in the usual way."""
