"""How a request becomes the arguments of a handler."""
