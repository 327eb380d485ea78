"""What speaks HTTP/1.1 on a connection: uvicorn's httptools protocol with strict parsing, limits and timeouts."""
