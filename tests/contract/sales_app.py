"""The service with sales of several lines, as `docs/add-a-resource.md` has them; a sale takes a while."""

from collections import Counter

from pydantic import BaseModel
from sqlalchemy import BigInteger, ForeignKey, Identity, MetaData, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from app.core.api import APIRouter, Conditions, IdempotencyKey, RequestBody
from app.core.database import DB, transaction
from app.core.errors import Conflict
from app.main import create_app


class Base(DeclarativeBase):
    """Tables of this test, which the service's migrations know nothing of."""

    metadata = MetaData()
    type_annotation_map = {int: BigInteger}  # noqa: RUF012


class Stock(Base):
    """How many of an item there are."""

    __tablename__ = "stock"

    item_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    quantity: Mapped[int]


class Sale(Base):
    """What was sold together."""

    __tablename__ = "sales"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    lines: Mapped[list["SaleLine"]] = relationship(order_by="SaleLine.item_id")


class SaleLine(Base):
    """So many of one item."""

    __tablename__ = "sale_lines"

    sale_id: Mapped[int] = mapped_column(ForeignKey("sales.id"), primary_key=True, autoincrement=False)
    item_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    quantity: Mapped[int]


class Line(RequestBody):
    """So many of one item."""

    item_id: int
    quantity: int


class SaleCreate(RequestBody):
    """What a client sends to buy."""

    lines: list[Line]


class SaleAnswer(BaseModel):
    """A sale as clients see it."""

    id: int
    lines: list[Line]


class OutOfStock(Conflict):
    """There are not so many of an item."""


@transaction
def place_sale(session: Session, sale: SaleCreate) -> SaleAnswer:
    """Take every line from the stock, or nothing."""
    wanted = Counter[int]()
    for line in sale.lines:
        wanted[line.item_id] += line.quantity
    placed = Sale()
    for item_id, quantity in sorted(wanted.items()):
        enough = update(Stock).where(Stock.item_id == item_id, Stock.quantity >= quantity)
        if session.execute(enough.values(quantity=Stock.quantity - quantity).returning(Stock.item_id)).first() is None:
            raise OutOfStock(f"There are not so many of item {item_id}")
        placed.lines.append(SaleLine(item_id=item_id, quantity=quantity))
        session.execute(text("SELECT pg_sleep(0.01)"))  # so that workers die in the middle
    session.add(placed)
    session.flush()
    return SaleAnswer.model_validate(placed, from_attributes=True)


router = APIRouter(prefix="/sales")


@router.post("", status_code=201)
async def create_sale(sale: SaleCreate, db: DB, key: IdempotencyKey, conditions: Conditions) -> SaleAnswer:
    """Buy several things at once."""
    return conditions.created(await place_sale(db.once(key), sale))


app = create_app()
app.include_router(router)
