"""Answers without a response model: numbers that JSON does not have are null, as pydantic writes them with one."""

from decimal import Decimal
from typing import Any

from fastapi.encoders import ENCODERS_BY_TYPE, decimal_encoder
from fastapi.routing import _normalize_non_finite_floats
from starlette import responses

# Decimal places of the largest double. FastAPI makes an `int` of 1E+999999, which takes half a minute.
_MAX_DIGITS = 308


class JSONResponse(responses.JSONResponse):
    """JSON in which NaN and the infinities are null: clients may send them in a query or in a string, for a `float`."""

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - any JSON value
        """Serialise the content."""
        try:
            return super().render(content)
        except ValueError:
            return super().render(_normalize_non_finite_floats(content))


class NoContent(responses.Response):
    """A response without a body, and so without the media type of JSON, whatever the handler returns."""

    def render(self, content: Any) -> bytes:  # noqa: ANN401, ARG002 - what a handler returns
        """Serialise nothing."""
        return b""


def _encode_decimal(number: Decimal) -> int | float:
    return decimal_encoder(number) if number.adjusted() <= _MAX_DIGITS else float(number)


ENCODERS_BY_TYPE[Decimal] = _encode_decimal
