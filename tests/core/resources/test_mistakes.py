"""What is declared wrongly is an error where it is declared, and says what."""

from typing import Literal

import pytest
from sqlalchemy import Connection, exists, select
from sqlalchemy.orm import Mapped, mapped_column

from app.core.api import PageQuery, RequestBody, errors
from app.core.database import batched_read
from app.core.resources import Pages, Resource
from tests.sample.things import SampleBase, ThingNotFound, ThingRow


class Label(SampleBase):
    """A table with a key of its own."""

    __tablename__ = "labels"
    name: Mapped[str] = mapped_column(primary_key=True)
    thing_id: Mapped[int]


SampleBase.metadata.remove(Label.__table__)  # type: ignore[arg-type]


class LabelCreate(RequestBody):
    """A body."""

    name: str


class Misspelt(PageQuery):
    """Sorts by what is not there."""

    sort: Literal["id", "-nam"] = "id"


def scalar(connection: Connection, question: int) -> list[int]:
    """Take a single question."""
    raise NotImplementedError


def test_a_filter_of_another_table() -> None:
    for condition in (Label.name, lambda name: Label.name == name):
        with pytest.raises(TypeError, match=r"filter label has columns of another table than things: .*exists"):
            Pages(ThingRow, PageQuery, {"label": condition})

    of_thing, labelled = Label.thing_id == ThingRow.id, select(Label.thing_id)
    Pages(ThingRow, PageQuery, {"label": lambda name: exists().where(of_thing, Label.name == name)})
    Pages(ThingRow, PageQuery, {"label": lambda name: ThingRow.id.in_(labelled.where(Label.name == name))})


def test_a_filter_without_its_value() -> None:
    with pytest.raises(TypeError, match="filter cheap must depend on its value, and on no other"):
        Pages(ThingRow, PageQuery, {"cheap": lambda _: ThingRow.price < 3})


def test_a_sort_without_a_column() -> None:
    with pytest.raises(TypeError, match=r"Misspelt\.sort: things has no column nam"):
        Pages(ThingRow, Misspelt)


def test_a_model_without_the_columns() -> None:
    with pytest.raises(TypeError, match=r"Label has no column id: .*Versioned"):
        Pages(Label)
    with pytest.raises(TypeError, match=r"Label has no column id, version: .*Versioned"):
        Resource(Label, create=LabelCreate, not_found=ThingNotFound)
    with pytest.raises(TypeError, match="LabelCreate is no mapped class"):
        Resource(LabelCreate, create=LabelCreate, not_found=ThingNotFound)


def test_an_error_that_is_none_of_the_api() -> None:
    with pytest.raises(TypeError, match=r"ValueError.*APIError"):
        errors(ValueError)  # type: ignore[arg-type]


def test_a_batched_function_of_one_question() -> None:
    with pytest.raises(TypeError, match="second parameter with Sequence"):
        batched_read(scalar)  # type: ignore[arg-type]
