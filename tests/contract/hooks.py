"""What schemathesis has to know of this API beyond its schema; `schemathesis.toml` names this module."""

import secrets
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

# Rules that no schema can say, by the `type` of the error that answers 422: schemathesis may break them. Add your own.
BEYOND_THE_SCHEMA = {
    "decimal_max_places",  # of a price: `multipleOf` 0.01 would refuse 19.99 where numbers are doubles
    "decimal_max_digits",
    "too_many_errors",  # beside the others: the rest was left out
    "cursor_invalid",  # a cursor that this service did not issue (ADR 0010)
}


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Give each request with a valid key one of its own.

    Among many requests a schema's example would come again with another body, or bring back an item that is gone.
    """
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = secrets.token_hex(16)


@schemathesis.hook
def map_query(_context: HookContext, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Round most prices to what a price may be: few random numbers have at most two decimals."""
    return query and {name: round(value, 2) if isinstance(value, float) else value for name, value in query.items()}


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, _case: Case[Any], response: Response) -> bool:
    """Keep a failure, unless only rules beyond the schema were broken."""
    return not (isinstance(failure, RejectedPositiveData) and _beyond_the_schema(response))


def _beyond_the_schema(response: Response) -> bool:
    if response.status_code != 422:
        return False
    problems = response.json()["detail"].get("errors", [])
    return bool(problems) and {problem["type"] for problem in problems} <= BEYOND_THE_SCHEMA
