"""What a feature's router and schemas import, besides the types in `app.core.api.types`."""

from app.core.api.authentication import Caller, caller
from app.core.api.conditional_requests import ConditionalRequest, Conditions
from app.core.api.idempotency import IdempotencyKey
from app.core.api.openapi.operations import errors
from app.core.api.pagination import Links, Page, PageOf, PageQuery
from app.core.api.router import APIRouter
from app.core.api.schemas import Batch, MergePatch, RequestBody, ResourceBody, ResponseBody

__all__ = [
    "APIRouter",
    "Batch",
    "Caller",
    "ConditionalRequest",
    "Conditions",
    "IdempotencyKey",
    "Links",
    "MergePatch",
    "Page",
    "PageOf",
    "PageQuery",
    "RequestBody",
    "ResourceBody",
    "ResponseBody",
    "caller",
    "errors",
]
