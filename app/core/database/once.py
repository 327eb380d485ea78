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

    def fingerprint(self, *asked: object) -> bytes:
        """Return 32 bytes that tell one request from another: SHA-256 over caller, operation and what is asked.

        Parameters
        ----------
        *asked
            What pydantic can serialise, or has it as `asked`, as the conditions of a request do. A repeated request
            must ask the same, so a time or a random number that the service adds has no place here.
        """
        parts = [
            # Not what was left out: a field that a later version adds is no other request.
            part.model_dump_json(exclude_unset=True).encode()
            if isinstance(part, BaseModel)
            else to_json(part, fallback=_ASKED)
            for part in asked
        ]
        head = f"{self.caller}\n{self.operation}" if self.caller else self.operation
        return hashlib.sha256(b"\n".join([head.encode(), *parts])).digest()
