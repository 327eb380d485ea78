"""Who calls: FastAPI's `Security` with scopes, over the bearer tokens of `app.core.auth`.

    router = APIRouter(prefix="/orders", scopes="orders")  # orders:read for GET and HEAD, orders:write for the rest

    @router.post("/{order_id}/refund", dependencies=[Security(caller, scopes=["orders:refund"])])
    async def refund_order(order_id: OrderId, caller: Caller) -> ...

Every route of `app.core.api.router.APIRouter` needs a token; those of FastAPI's own `APIRouter`, as health checks,
metrics and the documentation, do not. Where authentication is off, every caller is `ANONYMOUS` and may do everything.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from fastapi import Security
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.core.auth import ANONYMOUS, Identity
from app.core.auth.failures import AuthFailure, Reason
from app.core.errors import APIError, Forbidden, Unauthenticated
from app.core.observability.instruments import AUTH_FAILURES

_failures = {reason: AUTH_FAILURES.labels(reason) for reason in Reason}


class AuthenticationUnavailable(APIError):
    """The issuer's keys could not be read yet, so no token can be verified."""

    code, status, default_message = "AUTHENTICATION_UNAVAILABLE", 503, Reason.KEYS_UNAVAILABLE.text
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class _BearerToken(SecurityBase):
    """The security scheme: what OpenAPI says of it, and the dependency that checks a request."""

    def __init__(self) -> None:
        self.model = HTTPBearer(bearerFormat="JWT", description="An access token of the issuer (RFC 6750, RFC 9068)")
        self.scheme_name = "bearerAuth"

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes) -> Identity:
        """Return the caller, or raise for a token that is missing or not valid, or that lacks a scope.

        Raises
        ------
        Unauthenticated, Forbidden
            With the challenge of RFC 6750, section 3.
        AuthenticationUnavailable
            There are no keys to verify the token with.
        """
        verifier = getattr(connection.app.state, "verifier", None)
        if verifier is None:
            return ANONYMOUS
        scopes = security_scopes.scopes
        try:
            identity: Identity = await verifier.verify(_token_of(connection.scope["headers"]))
            connection.state.caller = identity
            if not identity.scopes.issuperset(scopes):
                raise AuthFailure(Reason.SCOPE)
        except AuthFailure as failure:
            _failures[failure.reason].inc()
            raise _error(failure.reason, connection.app.state.settings.service_name, scopes) from failure
        return identity


def _token_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Take the token from `Authorization`, the one place for it (RFC 6750, section 2.1)."""
    fields = [value for name, value in headers if name == b"authorization"]
    if not fields:
        raise AuthFailure(Reason.MISSING)
    if len(fields) > 1:
        raise AuthFailure(Reason.MALFORMED)
    scheme, _, token = fields[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise AuthFailure(Reason.MISSING)
    return token.strip(b" ")


def _error(reason: Reason, realm: str, scopes: list[str]) -> APIError:
    """Make the answer; without a token there is no `error` in the challenge (RFC 6750, section 3.1)."""
    if reason is Reason.KEYS_UNAVAILABLE:
        return AuthenticationUnavailable()
    parameters = {"realm": realm}
    if reason is Reason.SCOPE:
        parameters["error"] = "insufficient_scope"
    elif reason is not Reason.MISSING:
        parameters["error"] = "invalid_token"
    if "error" in parameters:
        parameters["error_description"] = reason.text
    if scopes:
        parameters["scope"] = " ".join(scopes)
    challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())
    kind = Forbidden if reason is Reason.SCOPE else Unauthenticated
    return kind(reason.text, headers={"WWW-Authenticate": challenge})


caller = _BearerToken()
"""The dependency: `Security(caller, scopes=[...])`."""

Caller = Annotated[Identity, Security(caller)]
"""The caller, for a handler that wants to know: `caller: Caller`."""


def required(resource: str | None, methods: Iterable[str] | None) -> Any:  # noqa: ANN401 - as FastAPI types `Security`
    """Require a token; for a resource, one with `<resource>:read` for GET and HEAD, `<resource>:write` for the rest."""
    if resource is None:
        return Security(caller)
    access = "read" if set(methods or ["GET"]) <= {"GET", "HEAD"} else "write"
    return Security(caller, scopes=[f"{resource}:{access}"])


def caller_of(connection: HTTPConnection) -> str | None:
    """Return the subject of the verified token, or None where authentication is off."""
    identity: Identity = getattr(connection.state, "caller", ANONYMOUS)
    return identity.subject
