"""The usual arrangement: `def` endpoints, an ORM session dependency, BaseHTTPMiddleware, a pre-ping."""

import base64
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from sqlalchemy import BigInteger, Identity, LargeBinary, Numeric, Text, create_engine, func, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.types import DateTime
from starlette.middleware.base import BaseHTTPMiddleware

from bench.peers import common
from bench.peers.common import ItemCreate, ItemPage, ItemPatch

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://"), pool_pre_ping=True
)
SessionLocal = sessionmaker(bind=engine, autoflush=False)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    description: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    rows: Mapped[Any] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


def get_db() -> Iterator[Session]:
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


class AccessMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        trace_id = common.trace_id_of(request.headers.get("x-trace-id"))
        response = await call_next(request)
        response.headers["X-Trace-ID"] = trace_id
        route = request.scope.get("route")
        template = route.path if route is not None else "unmatched"
        client = request.client.host if request.client else ""
        common.observe(request.method, request.url.path, template, response.status_code, started, client, trace_id)
        return response


app = FastAPI()
app.add_middleware(AccessMiddleware)
DB = Annotated[Session, Depends(get_db)]
ItemId = Annotated[int, Path(ge=1, lt=2**63)]


def answer(item: Item | None, response: Response) -> Item:
    if item is None:
        raise HTTPException(404, "Item not found")
    response.headers["ETag"] = f'"{item.version}"'
    return item


@app.get("/items/{item_id}", response_model=common.Item)
def get_item(item_id: ItemId, db: DB, response: Response) -> Item:
    return answer(db.get(Item, item_id), response)


@app.post("/items", response_model=common.Item, status_code=201)
def create_item(
    body: ItemCreate,
    db: DB,
    response: Response,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Item:
    fingerprint = hashlib.sha256(body.model_dump_json().encode()).digest()
    stored = db.get(IdempotencyKey, idempotency_key) if idempotency_key is not None else None
    if stored is not None:
        if stored.fingerprint != fingerprint:
            raise HTTPException(422, "This Idempotency-Key was used for another request")
        item = db.get(Item, stored.rows[0]["id"])
    else:
        item = Item(name=body.name, price=body.price, description=body.description)
        db.add(item)
        if idempotency_key is not None:
            db.flush()
            db.add(IdempotencyKey(key=idempotency_key, fingerprint=fingerprint, rows=[{"id": item.id}]))
        db.commit()
        db.refresh(item)
    response.headers["Location"] = f"/items/{item.id if item else 0}"
    return answer(item, response)


@app.get("/items", response_model=ItemPage)
def list_items(db: DB, limit: Annotated[int, Query(ge=1, le=100)] = 20, cursor: str | None = None) -> dict[str, object]:
    after = int(base64.urlsafe_b64decode(cursor + "==")) if cursor else 0
    rows = db.scalars(select(Item).where(Item.id > after).order_by(Item.id).limit(limit + 1)).all()
    page = rows[:limit]
    more = base64.urlsafe_b64encode(str(page[-1].id).encode()).rstrip(b"=").decode() if len(rows) > limit else None
    return {"items": page, "next_cursor": more}


@app.patch("/items/{item_id}", response_model=common.Item)
def patch_item(item_id: ItemId, patch: ItemPatch, db: DB, response: Response) -> Item:
    item = db.get(Item, item_id, with_for_update=True)
    if item is not None:
        for name in patch.model_fields_set:
            setattr(item, name, getattr(patch, name))
        item.version += 1
        item.updated_at = func.now()  # type: ignore[assignment]
        db.commit()
        db.refresh(item)
    return answer(item, response)


common.add_operations(app)
