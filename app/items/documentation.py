"""What the OpenAPI document says of each operation, beside its types: arguments of the route decorators."""

from typing import Any

from app.core.api.conditional_requests import PreconditionFailed
from app.core.api.idempotency import IdempotencyKeyInUse, IdempotencyKeyReused
from app.core.api.input.json_body import MERGE_PATCH_JSON
from app.core.api.openapi import also_accepts, errors, header, link
from app.core.errors import Conflict, InvalidInput, PayloadTooLarge, UnsupportedMediaType
from app.items.errors import ItemNotFound

_ETAG = {"ETag": header("The entity tag: it changes whenever the item does", '"3"')}
_REPLAYED = {"Idempotent-Replayed": header("Sent with a repeated answer", "true")}
_LOCATION = {"Location": header("Path of the new item", "/items/7")}
_LINK = {"Link": header("The next page, while there is one", '</items?cursor=...>; rel="next"')}

_THIS = {"item_id": "$response.body#/id"}
_UNCHANGED = {**_THIS, "If-Match": "$response.header.ETag"}
_LEADS_TO = {
    "get": link("get_item", "Read the item", **_THIS),
    "patch": link("patch_item", "Change it unless it has changed", **_UNCHANGED),
    "delete": link("delete_item", "Delete it unless it has changed", **_UNCHANGED),
    "stock": link("get_stock", "Ask how many there are", **_THIS),
}

_BODY_ERRORS = errors(InvalidInput, PayloadTooLarge, UnsupportedMediaType)
_CREATE_ERRORS = _BODY_ERRORS | errors(InvalidInput, IdempotencyKeyReused, IdempotencyKeyInUse)
_CHANGE_ERRORS = errors(ItemNotFound, PreconditionFailed)

Documentation = dict[str, Any]

CREATE_ITEM: Documentation = {
    "responses": {201: {"headers": _LOCATION | _ETAG | _REPLAYED, "links": _LEADS_TO}, **_CREATE_ERRORS}
}
CREATE_ITEMS: Documentation = {"responses": {201: {"headers": _REPLAYED}, **_CREATE_ERRORS}}
LIST_ITEMS: Documentation = {"responses": {200: {"headers": _LINK}}}
GET_ITEM: Documentation = {
    "responses": {
        200: {"headers": _ETAG},
        304: {"description": "Not Modified", "headers": _ETAG},
        **errors(ItemNotFound),
    },
}
PATCH_ITEM: Documentation = {
    "responses": {200: {"headers": _ETAG}, **_BODY_ERRORS, **_CHANGE_ERRORS},
    "openapi_extra": also_accepts(MERGE_PATCH_JSON, "ItemPatch"),
}
DELETE_ITEM: Documentation = {
    # A row of another feature that refers to the item keeps it.
    "responses": _CHANGE_ERRORS | errors(Conflict),
}
