"""What is to happen once: a request with an `Idempotency-Key`, or a run of a periodic job."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from pydantic import BaseModel
from pydantic_core import to_json

_ASKED = attrgetter("asked")


@dataclass(frozen=True, slots=True)
class Once:
    """A key, and the operation that it identifies.

    Attributes
    ----------
    caller
        Whose key it is; empty where callers are not known.
    key
        Chosen by the caller.
    operation
        For example `POST /orders`.
    on_replay
        Called where the operation has happened before.
    """

    caller: str
    key: str
    operation: str
    on_replay: Callable[[], None]

    @property
    def turn(self) -> tuple[str, str]:
        """Caller and key: what equal requests wait for, one after another."""
        return self.caller, self.key

    def fingerprint(self, *asked: object) -> bytes:
        """Return 32 bytes that tell one request from another: SHA-256 over caller, operation and what is asked.

        Parameters
        ----------
        *asked
            What pydantic can serialise, or has it as `asked`, as the conditions of a request do. A repeated request
            must ask the same, so a time or a random number that the service adds has no place here.
        """
        head = f"{self.caller}\n{self.operation}" if self.caller else self.operation
        return hashlib.sha256(b"\n".join([head.encode(), *map(_json, asked)])).digest()


def _json(part: object) -> bytes:
    if _has_set(part):
        part = _ordered(part)
    if isinstance(part, BaseModel):
        # Not what was left out: a field that a later version adds is no other request.
        return part.model_dump_json(exclude_unset=True).encode()
    return to_json(part, fallback=_ASKED)


def _has_set(part: object) -> bool:
    if isinstance(part, BaseModel):
        part = dict(part)
    if isinstance(part, dict):
        return any(map(_has_set, part.values()))
    return isinstance(part, set | frozenset) or (isinstance(part, list | tuple) and any(map(_has_set, part)))


def _ordered(part: object) -> object:
    """Replace sets by sorted lists: a set has another order in each process."""
    if isinstance(part, set | frozenset):
        return sorted(map(_json, part))
    if isinstance(part, BaseModel):
        part = {name: value for name, value in part if name in part.model_fields_set}
    if isinstance(part, dict):
        return {name: _ordered(value) for name, value in part.items()}
    return [*map(_ordered, part)] if isinstance(part, list | tuple) else part
