"""The caller of a request, for handlers and for what belongs to one caller."""

from starlette.requests import HTTPConnection

from app.core.auth import ANONYMOUS, Identity


def caller_of(connection: HTTPConnection) -> str | None:
    """Return the subject of the verified token, or None where authentication is off."""
    identity: Identity = getattr(connection.state, "caller", ANONYMOUS)
    return identity.subject
