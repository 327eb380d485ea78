"""The caller of a request: FastAPI's `Security` with scopes, for the bearer tokens that `app.core.auth` verifies.

    router = APIRouter(prefix="/orders", scopes="orders")  # orders:read for GET and HEAD, orders:write for the rest

    @router.post("/{order_id}/refund", dependencies=[Security(caller, scopes=["orders:refund"])])
    async def refund_order(order_id: OrderId, caller: Caller) -> ...

Where authentication is on, `create_app` requires a token of every route but the public ones (`app.state.public`): our
`APIRouter` adds scopes. Where it is off, every caller is `ANONYMOUS` and may do everything.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from fastapi import Security
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from app.core.auth import ANONYMOUS, Identity
from app.core.auth.failures import AuthFailure, Reason
from app.core.errors import APIError, Forbidden, Unauthenticated
from app.core.observability.instruments import AUTH_FAILURES

_failures = {reason: AUTH_FAILURES.labels(reason) for reason in Reason}


AUTHENTICATING_STATE = "app.authentication"
"""Key in the scope of a request to a mounted application: the state of the application that verifies tokens."""


class AuthenticationUnavailable(APIError):
    """The issuer's keys could not be read yet, so no token can be verified."""

    status, default_message = 503, Reason.KEYS_UNAVAILABLE.text
    default_headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class _BearerToken(SecurityBase):
    """The security scheme: its description for OpenAPI, and the dependency that checks a request."""

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
        scope, scopes = connection.scope, security_scopes.scopes
        state = scope.get(AUTHENTICATING_STATE) or scope["app"].state
        verifier = getattr(state, "verifier", None)
        if verifier is None or scope["path"] in getattr(state, "public", ()):
            return ANONYMOUS
        try:
            token = _token_of(scope["headers"])
            identity: Identity = verifier.recall(token) or await verifier.verify(token)
            scope.setdefault("state", {})["caller"] = identity  # `request.state.caller`, without its object
            if not identity.scopes.issuperset(scopes):
                raise AuthFailure(Reason.SCOPE)
        except AuthFailure as failure:
            _failures[failure.reason].inc()
            raise _error(failure.reason, state.settings.service_name, scopes) from failure
        return identity


def _token_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Take the token from `Authorization`, the one place for it (RFC 6750, section 2.1)."""
    field = None
    for name, value in headers:
        if name == b"authorization":
            if field is not None:
                raise AuthFailure(Reason.MALFORMED)
            field = value
    if field is None:
        raise AuthFailure(Reason.MISSING)
    scheme, _, token = field.partition(b" ")
    if scheme.lower() != b"bearer":
        raise AuthFailure(Reason.MISSING)
    return token.strip(b" ")


def _error(reason: Reason, realm: str, scopes: list[str]) -> APIError:
    """Choose the error; without a token there is no `error` in the challenge (RFC 6750, section 3.1)."""
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
"""The caller, for a handler: `caller: Caller`."""


def required(resource: str, methods: Iterable[str] | None) -> Any:  # noqa: ANN401 - as FastAPI types `Security`
    """Require a token with `<resource>:read` for GET and HEAD, with `<resource>:write` for the rest."""
    access = "read" if set(methods or ["GET"]) <= {"GET", "HEAD"} else "write"
    return Security(caller, scopes=[f"{resource}:{access}"])


def without_guards(dependant: Dependant, app: Any) -> tuple[SecurityScopes | None, Dependant]:  # noqa: ANN401
    """Split off the dependencies that only require a token, since a route calls `caller` at most once for all of them.

    Parameters
    ----------
    dependant
        What a route's handler takes.
    app
        The application that includes the route; where authentication is off there, nothing is required.

    Returns
    -------
    tuple
        The scopes that are required together, or None where no token is; and the other dependencies.
    """
    guards = [part for part in dependant.dependencies if part.call is caller and part.name is None]
    rest = replace(dependant, dependencies=[part for part in dependant.dependencies if part not in guards])
    if not guards or getattr(getattr(app, "state", None), "verifier", caller) is None:
        return None, rest
    scopes = dict.fromkeys(scope for part in guards for scope in part.own_oauth_scopes or ())
    return SecurityScopes([*scopes]), rest


def caller_of(connection: HTTPConnection) -> str | None:
    """Return the subject of the verified token, or None where authentication is off."""
    identity: Identity = getattr(connection.state, "caller", ANONYMOUS)
    return identity.subject
