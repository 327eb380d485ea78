"""Base classes of a feature's schemas: of what clients send, and of what they receive."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from app.core.api.types import Id, Timestamp

T = TypeVar("T")


class RequestBody(BaseModel):
    """What a client sends. Unknown members are rejected."""

    model_config = ConfigDict(extra="forbid")


@with_config(ConfigDict(extra="forbid"))
class MergePatch(TypedDict):
    """A JSON merge patch (RFC 7396): what is absent stays, null clears what may be null.

    Its subclasses are declared with `total=False`, and name what may change.
    """


class ResponseBody(BaseModel):
    """What a client receives: those fields of a row that the subclass declares."""

    model_config = ConfigDict(from_attributes=True)


class ResourceBody(ResponseBody):
    """A row of a resource as a client receives it: what `Versioned` has that is public, and the subclass's fields."""

    id: Id
    created_at: Timestamp
    updated_at: Timestamp


class Batch(RequestBody, Generic[T]):
    """Several at once, in the order sent: `Batch[OrderCreate]`, and `Batch[Order]` in the response."""

    items: Annotated[list[T], Field(min_length=1, max_length=1000)]
