"""What schemathesis has to know of this API beyond its schema; `schemathesis.toml` names this module."""

import secrets
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Give each request with a valid key one of its own.

    Among many requests a schema's example would come again with another body, or bring back an item that is gone.
    """
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = secrets.token_hex(16)


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, _case: Case[Any], response: Response) -> bool:
    """Keep a failure, unless no schema could know better: a cursor that is none of ours (ADR 0010)."""
    return not (isinstance(failure, RejectedPositiveData) and _only_the_cursor(response))


def _only_the_cursor(response: Response) -> bool:
    if response.status_code != 422:
        return False
    problems = response.json()["detail"].get("errors", [])
    return [(problem["type"], problem["loc"]) for problem in problems] == [("cursor_invalid", ["query", "cursor"])]
