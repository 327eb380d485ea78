"""`scripts/load-items` on a running service: what can be loaded is, once; what cannot is reported with its reason."""

import json
import os
import pty
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tests.conftest import SQL, StartService
from tests.support.service import ROOT, environment, eventually, free_port

pytestmark = pytest.mark.slow

SCRIPT = str(ROOT / "scripts" / "load_items.py")
CSV = """name,price,description
Lamp,19.99,"It shines,
in two lines."
Desk,249,
Chair,9999999999.99,
"""


@pytest.fixture
def url(start_service: StartService) -> str:
    """Run a service with empty tables."""
    return start_service(WEB_CONCURRENCY="1").url


def load(file: Path, url: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Load a file."""
    return subprocess.run(
        [sys.executable, SCRIPT, str(file), "--url", url, *options],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )


def refused(file: Path) -> dict[int, str]:
    """Read why which line was refused."""
    rows = [json.loads(line) for line in file.with_name(file.name + ".refused").read_text().splitlines()]
    return {row["line"]: row["error"]["errors"][0]["type"] for row in rows}


def test_a_csv_file_is_loaded_to_the_cent(url: str, sql: SQL, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("\ufeff" + CSV, encoding="utf-8")

    done = load(file, url)

    assert done.returncode == 0, done.stderr
    assert "3 rows: 3 created, 0 there before, 0 refused" in done.stderr
    assert sql("SELECT name, price, description FROM items ORDER BY price") == [
        ("Lamp", Decimal("19.99"), "It shines,\nin two lines."),
        ("Desk", Decimal("249.00"), None),
        ("Chair", Decimal("9999999999.99"), None),
    ]
    assert not file.with_name("items.csv.refused").exists()


def test_rows_that_are_refused_are_reported_and_harm_no_other(url: str, sql: SQL, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    lines = [
        b'{"name": "Lamp", "price": 1}',
        b'{"name": "Lamp", "price": 1.999}',
        b"",
        b'{"name": "Lamp"',
        b'{"name": "Lamp", "price": 1, "description": "\xff"}',
        b'{"name": "two words", "price": 1}',
        b'{"name": "Desk", "price": 2}',
    ]
    file.write_bytes(b"\n".join(lines))

    done = load(file, url)

    assert done.returncode == 1
    assert "6 rows: 2 created, 0 there before, 4 refused" in done.stderr
    assert refused(file).keys() == {2, 4, 5, 6}
    assert refused(file)[2] == "decimal_max_places"
    assert sorted(sql("SELECT name FROM items")) == [("Desk",), ("Lamp",)]


def test_a_csv_price_keeps_the_digits_that_it_has(url: str, sql: SQL, tmp_path: Path) -> None:
    """A double would make a valid price of it."""
    file = tmp_path / "items.csv"
    file.write_text("name,price\nLamp,0.100000000000000001\nDesk,cheap\nChair,0.10\n")

    assert load(file, url).returncode == 1
    assert refused(file).keys() == {2, 3}
    assert sql("SELECT name, price FROM items") == [("Chair", Decimal("0.10"))]


def test_a_repeated_run_creates_nothing_twice(url: str, sql: SQL, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text(CSV)

    first, second = load(file, url), load(file, url)

    assert (first.returncode, second.returncode) == (0, 0)
    assert "3 rows: 0 created, 3 there before, 0 refused" in second.stderr
    assert sql("SELECT count(*) FROM items") == [(3,)]


def test_equal_rows_are_different_items(url: str, sql: SQL, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("name,price\n" + "Lamp,1\n" * 5)

    assert load(file, url).returncode == 0
    assert sql("SELECT count(*) FROM items") == [(5,)]


def test_an_interrupted_run_is_finished_by_the_next(url: str, sql: SQL, tmp_path: Path) -> None:
    file, rows = tmp_path / "items.jsonl", 3000
    file.write_text("".join(f'{{"name": "x{n}", "price": 1}}\n' for n in range(rows)))
    process = subprocess.Popen(
        [sys.executable, SCRIPT, str(file), "--url", url], stderr=subprocess.DEVNULL, env=environment()
    )
    eventually(lambda: sql("SELECT count(*) FROM items")[0][0] > 100, pause=0.01)
    process.kill()
    process.wait(60)
    [(loaded,)] = sql("SELECT count(*) FROM items")
    assert loaded < rows

    done = load(file, url)

    assert done.returncode == 0, done.stderr
    assert sql("SELECT count(*), count(DISTINCT name) FROM items") == [(rows, rows)]


def test_a_service_that_is_away_is_named(tmp_path: Path) -> None:
    file, url = tmp_path / "items.csv", f"http://127.0.0.1:{free_port()}"
    file.write_text("name,price\nLamp,1\n")

    done = load(file, url)

    assert done.returncode == 1
    assert url in done.stderr
    assert "start this again" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = load(tmp_path / "none.csv", "http://127.0.0.1:9")

    assert done.returncode == 2
    assert "none.csv" in done.stderr


def test_a_terminal_gets_a_bar(url: str, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("".join(f'{{"name": "x{n}", "price": 1}}\n' for n in range(500)))
    ours, theirs = pty.openpty()
    done = subprocess.Popen([sys.executable, SCRIPT, str(file), "--url", url], stderr=theirs, env=environment())
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the end of a terminal
        pass
    os.close(ours)

    assert done.wait(60) == 0
    assert b"[" in shown
    assert b"%" in shown
    assert b"500 rows: 500 created" in shown
