"""`docs/items.md` leaves nothing out; `tests/docs/test_api_pages.py` compares it with what happens."""

from fastapi.routing import APIRoute

from app.items.router import router
from app.items.stock import router as stock
from tests.support.service import ROOT


def test_the_page_shows_every_operation() -> None:
    page = (ROOT / "docs" / "items.md").read_text()

    for route in (*router.routes, *stock.routes):
        assert isinstance(route, APIRoute)
        path = route.path.replace("{item_id}", "1")
        assert f"localhost:8000{path}" in page, path
        for method in {"PATCH", "DELETE"} & set(route.methods or ()):
            assert f"-X {method}" in page, method
    assert "`ITEM_NOT_FOUND`" in page
