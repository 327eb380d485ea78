"""Requests to the service on this machine, without the proxy that the environment may name."""

import urllib.request
from http.client import HTTPResponse


def ask(request: urllib.request.Request | str, timeout: float) -> HTTPResponse:
    """Send a request, and return the response, which the caller closes; `timeout` is in seconds.

    Raises
    ------
    OSError
        There is no response, or the response is an error.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    response: HTTPResponse = opener.open(request, timeout=timeout)
    return response
