"""The service against a model of it in plain Python, in any order that Hypothesis comes up with."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from starlette.testclient import TestClient

from tests.conftest import SQL
from tests.support.errors import assert_error

SORTS = ("id", "name", "price", "created_at")
names = st.sampled_from(["Lamp", "Lampe", "lamp", "Desk", "ランプ", "Größe", "\U0001d4b3"]) | st.text(
    st.characters(categories=["L", "N"]), min_size=1, max_size=8
).filter(str.isalnum)
prices = st.decimals("0.01", "9999999999.99", places=2) | st.sampled_from(
    [Decimal("0.01"), Decimal(1), Decimal("19.99")]
)
descriptions = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
new_items = st.fixed_dictionaries({"name": names, "price": prices}, optional={"description": descriptions})
patches = st.fixed_dictionaries({}, optional={"name": names, "price": prices, "description": descriptions})
keys = st.sampled_from(["k1", "k2", "k3"])


@dataclass
class Row:
    """An item as the model has it."""

    seen: dict[str, Any]
    """As the service answered it last."""
    tag: str
    old_tags: list[str] = field(default_factory=list)


def as_json(value: Any) -> Any:
    """Make prices JSON numbers. A double holds 15 digits, so 12 survive."""
    if isinstance(value, dict):
        return {name: as_json(member) for name, member in value.items()}
    if isinstance(value, list):
        return [as_json(member) for member in value]
    return float(value) if isinstance(value, Decimal) else value


class Items(RuleBasedStateMachine):
    """What clients do, and what they must then see."""

    client: TestClient
    sql: SQL
    ids: Bundle[int] = Bundle("ids")

    @initialize()
    def start(self) -> None:
        """Begin with empty tables and an empty model."""
        self.sql("TRUNCATE items, idempotency_keys RESTART IDENTITY CASCADE")
        self.rows: dict[int, Row] = {}
        self.answered: dict[str, tuple[str, Any, httpx2.Response]] = {}
        self.last_id = 0

    def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send a request; nothing that a client does is a 5xx."""
        response: httpx2.Response = self.client.request(method, path, **options)
        assert response.status_code < 500, response.text
        assert response.headers["x-trace-id"]
        return response

    def learn(self, item: dict[str, Any], given: dict[str, Any], tag: str) -> int:
        """Check a new item against what was sent, and take it into the model."""
        sent = as_json({"description": None, **given})
        assert {name: item[name] for name in sent} == sent
        assert item["created_at"] == item["updated_at"]
        assert item["id"] > self.last_id
        self.last_id = item["id"]
        self.rows[item["id"]] = Row(item, tag)
        return self.last_id

    def post(self, path: str, body: Any, key: str | None) -> httpx2.Response | None:
        """Create, once for each key: `None` when nothing new came of it."""
        headers = {"Idempotency-Key": key} if key else {}
        response = self.ask("POST", path, json=as_json(body), headers=headers)
        if key not in self.answered:
            assert response.status_code == 201
            assert "idempotent-replayed" not in response.headers
            if key:
                self.answered[key] = (path, body, response)
            return response
        known_path, known_body, first = self.answered[key]
        if (known_path, meaning(known_body)) == (path, meaning(body)):
            assert (response.status_code, response.content) == (201, first.content)
            assert response.headers["idempotent-replayed"] == "true"
            assert response.headers.get("etag") == first.headers.get("etag")
        else:
            assert_error(response, 422, "IDEMPOTENCY_KEY_REUSED")
        return None

    @rule(target=ids, item=new_items, key=st.none() | keys)
    def create(self, item: dict[str, Any], key: str | None) -> Any:
        """Create an item."""
        response = self.post("/items", item, key)
        if response is None:
            return multiple()
        assert response.headers["location"] == f"/items/{response.json()['id']}"
        return self.learn(response.json(), item, response.headers["etag"])

    @rule(target=ids, items=st.lists(new_items, min_size=1, max_size=5), key=st.none() | keys)
    def create_many(self, items: list[dict[str, Any]], key: str | None) -> Any:
        """Create some items at once."""
        response = self.post("/items/batch", {"items": items}, key)
        if response is None:
            return multiple()
        made = response.json()["items"]
        assert len(made) == len(items)
        return multiple(*(self.learn(item, given, '"1"') for item, given in zip(made, items, strict=True)))

    @rule(items=st.lists(new_items, max_size=3), at=st.integers(0, 3), key=st.none() | keys)
    def fail_to_create_many(self, items: list[dict[str, Any]], at: int, key: str | None) -> None:
        """Send a batch with one bad item: nothing comes of it, and its key stays free."""
        items.insert(at, {"name": "not alphanumeric", "price": 1})
        at = min(at, len(items) - 1)
        headers = {"Idempotency-Key": key} if key else {}
        response = self.ask("POST", "/items/batch", json=as_json({"items": items}), headers=headers)
        detail = assert_error(response, 422, "INVALID_INPUT")
        assert detail["errors"][0]["loc"] == ["body", "items", at, "name"]

    @rule(item_id=ids, known=st.sampled_from(["none", "current", "old", "any"]), head=st.booleans())
    def get(self, item_id: int, known: str, *, head: bool) -> None:
        """Read an item, perhaps only if it has changed."""
        row = self.rows.get(item_id)
        headers = {"If-None-Match": tag} if (tag := self.tag(row, known)) else {}
        response = self.ask("HEAD" if head else "GET", f"/items/{item_id}", headers=headers)
        if row is None:
            assert response.status_code == 404
        elif tag in {"*", row.tag}:
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"] == row.tag
        else:
            assert response.status_code == 200
            assert response.headers["etag"] == row.tag
            assert response.content == b"" if head else response.json() == row.seen

    @rule(item_id=ids, patch=patches, known=st.sampled_from(["none", "current", "old", "any"]), merge=st.booleans())
    def change(self, item_id: int, patch: dict[str, Any], known: str, *, merge: bool) -> None:
        """Patch an item, perhaps only if it is as the client knows it."""
        row = self.rows.get(item_id)
        tag = self.tag(row, known)
        media_type = "application/merge-patch+json" if merge else "application/json"
        headers = {"Content-Type": media_type, **({"If-Match": tag} if tag else {})}
        response = self.ask("PATCH", f"/items/{item_id}", json=as_json(patch), headers=headers)
        if row is None:
            assert_error(response, 404, "ITEM_NOT_FOUND")
        elif tag and tag not in {"*", row.tag}:
            assert_error(response, 412, "PRECONDITION_FAILED")
        else:
            assert response.status_code == 200
            now = response.json()
            if patch:
                assert response.headers["etag"] not in {row.tag, *row.old_tags}
                assert now["updated_at"] >= row.seen["updated_at"]
                row.old_tags.append(row.tag)
                row.tag = response.headers["etag"]
            assert response.headers["etag"] == row.tag
            assert now == {**row.seen, **as_json(patch), **({"updated_at": now["updated_at"]} if patch else {})}
            row.seen = now

    @rule(item_id=ids, member=st.sampled_from(["name", "price", "id", "colour"]))
    def fail_to_change(self, item_id: int, member: str) -> None:
        """Send a patch that is none: what may not be null, or is not there."""
        assert_error(self.ask("PATCH", f"/items/{item_id}", json={member: None}), 422, "INVALID_INPUT")

    @rule(item_id=consumes(ids), known=st.sampled_from(["none", "current", "any"]))
    def delete(self, item_id: int, known: str) -> None:
        """Delete an item; the second time it is not there."""
        row = self.rows.pop(item_id, None)
        headers = {"If-Match": tag} if (tag := self.tag(row, known)) else {}
        response = self.ask("DELETE", f"/items/{item_id}", headers=headers)
        assert response.status_code == (404 if row is None else 204)
        assert self.ask("DELETE", f"/items/{item_id}").status_code == 404
        assert self.ask("GET", f"/items/{item_id}").status_code == 404

    @rule(item_id=ids)
    def fail_to_delete(self, item_id: int) -> None:
        """Delete an item that has changed since."""
        row = self.rows.get(item_id)
        response = self.ask("DELETE", f"/items/{item_id}", headers={"If-Match": '"0"'})
        assert response.status_code == (404 if row is None else 412)

    @rule(
        sort=st.sampled_from(SORTS),
        descending=st.booleans(),
        limit=st.integers(1, 5),
        prefix=st.none() | names.map(lambda name: name[:2]),
        bounds=st.tuples(st.none() | prices, st.none() | prices),
    )
    def walk(
        self,
        sort: str,
        limit: int,
        prefix: str | None,
        bounds: tuple[Decimal | None, Decimal | None],
        *,
        descending: bool,
    ) -> None:
        """List everything that a filter lets through, page by page."""
        low, high = bounds
        query = {"sort": "-" * descending + sort, "limit": limit, "name": prefix, "min_price": low, "max_price": high}
        expected = [
            row.seen
            for row in self.rows.values()
            if row.seen["name"].startswith(prefix or "")
            and (low is None or row.seen["price"] >= float(low))
            and (high is None or row.seen["price"] <= float(high))
        ]
        expected.sort(key=lambda item: (item[sort], item["id"]), reverse=descending)
        url: str | None = f"/items?{httpx2.QueryParams({name: str(v) for name, v in query.items() if v is not None})}"
        walked: list[dict[str, Any]] = []
        while url is not None:
            response = self.ask("GET", url)
            assert response.status_code == 200, response.text
            page = response.json()
            walked += page["items"]
            assert len(page["items"]) == limit or page["next_cursor"] is None
            url = response.links.get("next", {}).get("url")
            assert dict(parse_qsl(urlsplit(url or "").query)).get("cursor") == page["next_cursor"]
        assert walked == expected

    @invariant()
    def has_what_the_model_has(self) -> None:
        """See that nothing else is there, and nothing is missing."""
        if not hasattr(self, "rows"):
            return
        listed = self.ask("GET", "/items?limit=100").json()["items"]
        assert listed == [row.seen for _, row in sorted(self.rows.items())][:100]

    @staticmethod
    def tag(row: Row | None, known: str) -> str | None:
        """Choose an entity tag to send."""
        if known == "none":
            return None
        if known == "any":
            return "*"
        if row is None:
            return '"1"'
        return row.tag if known == "current" else (row.old_tags or ['"0"'])[-1]


def meaning(body: Any) -> Any:
    """Make two bodies equal that say the same: an absent description is null."""
    if isinstance(body, dict) and "items" in body:
        return [meaning(item) for item in body["items"]]
    return {"description": None, **body}


def test_the_service_does_what_the_model_does(client: TestClient, sql: SQL) -> None:
    """Always the same examples; by hand, `derandomize=False` and more of them."""
    machine = type("Machine", (Items,), {"client": client, "sql": staticmethod(sql)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
