"""Which of several hosts a new connection leads to: two ways to one PostgreSQL, each of which can go silent."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg2
import pytest

from app.core.database.engine.connector import Connector
from app.core.database.engine.dialect import ConnectTimeout, address_of, wait_on_loop
from tests.support.proxy import Proxy
from tests.support.service import eventually

TIMEOUT = 4.0
"""Seconds: what a host has that answers, on a busy machine; and what a test lasts whose host does not."""


def _port(proxy: Proxy) -> int:
    return urlsplit(proxy.url).port or 0


def to_hosts(proxy: Proxy, hosts: str, query: str = "", timeout: float = TIMEOUT) -> Connector:
    """Connect to other hosts than the URL of `proxy` has."""
    wait_on_loop()
    parts = urlsplit(proxy.url)
    user = parts.netloc.rpartition("@")[0]
    dsn = parts._replace(netloc=f"{user}@{hosts}", query=query).geturl()
    return Connector({"dsn": dsn, "connect_timeout": timeout}, max_attempts=2)


@pytest.fixture
def other(database_url: str) -> Iterator[Proxy]:
    """Stand between the service and the database, too."""
    with contextlib.closing(Proxy(database_url)) as other:
        yield other


@pytest.fixture
def connector(proxy: Proxy, other: Proxy) -> Connector:
    """Connect to `proxy`, or else to `other`."""
    return to_hosts(proxy, f"127.0.0.1:{_port(proxy)},127.0.0.1:{_port(other)}")


def leads_to(connector: Connector) -> int:
    """Connect, and tell the port."""
    with contextlib.closing(connector()) as connection:
        return address_of(connection)[1]


def test_the_first_host_is_asked_first(connector: Connector, proxy: Proxy, other: Proxy) -> None:
    assert leads_to(connector) == _port(proxy)
    assert other.accepted == 0


def test_a_host_that_does_not_answer_costs_its_share_of_the_time_once(
    connector: Connector, proxy: Proxy, other: Proxy
) -> None:
    proxy.swallow()
    began = time.monotonic()
    assert leads_to(connector) == _port(other)
    assert time.monotonic() - began > 0.9 * TIMEOUT / 2
    assert leads_to(connector) == _port(other)
    assert proxy.accepted == 1


def test_a_host_that_was_down_is_the_first_again(connector: Connector, proxy: Proxy, other: Proxy) -> None:
    proxy.refuse()
    assert leads_to(connector) == _port(other)
    proxy.accept()
    assert leads_to(connector) == _port(proxy)


def test_a_host_that_hung_is_the_first_again_after_a_while(
    connector: Connector, proxy: Proxy, other: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector.avoid(("127.0.0.1", _port(proxy)))
    assert leads_to(connector) == _port(other)
    monkeypatch.setattr("app.core.database.engine.connector._AVOID_SECONDS", 0.0)
    assert leads_to(connector) == _port(proxy)


def test_hosts_that_look_alike_take_turns(proxy: Proxy, other: Proxy) -> None:
    hosts = f"localhost:{_port(proxy)},localhost:{_port(proxy)}"
    connector = to_hosts(proxy, hosts, "hostaddr=127.0.0.3,127.0.0.1")
    orders = []
    for _ in range(2):
        orders.append(connector._order())
        connector.avoid(("localhost", _port(proxy)))
    assert orders == [[0, 1], [1, 0]]
    assert other.accepted == 0


def test_one_port_is_that_of_all_hosts(proxy: Proxy) -> None:
    assert leads_to(to_hosts(proxy, "", f"host=127.0.0.3,127.0.0.1&port={_port(proxy)}")) == _port(proxy)


def test_no_host_answers(connector: Connector, proxy: Proxy, other: Proxy) -> None:
    proxy.swallow()
    other.swallow()
    began = time.monotonic()
    with pytest.raises(ConnectTimeout):
        connector()
    assert 0.9 * TIMEOUT < time.monotonic() - began < 10 * TIMEOUT


def test_a_host_on_which_statements_hang_is_avoided(connector: Connector, other: Proxy) -> None:
    with contextlib.closing(connector()) as connection:
        connector.avoid(address_of(connection))
    assert leads_to(connector) == _port(other)


def test_a_host_that_wakes_up_when_another_was_found_is_not_believed(
    connector: Connector, proxy: Proxy, other: Proxy
) -> None:
    proxy.swallow()
    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(leads_to, connector)
        eventually(lambda: proxy.accepted == 1)
        connector.avoid(("127.0.0.1", _port(proxy)))
        assert leads_to(connector) == _port(other)
        time.sleep(0.6)
        proxy.deliver()
        assert stuck.result(60) == _port(other)


def test_while_the_server_is_away_few_try_and_the_others_fail_at_once(proxy: Proxy, other: Proxy) -> None:
    connector = to_hosts(proxy, f"127.0.0.1:{_port(proxy)},127.0.0.1:{_port(other)}", timeout=120.0)
    proxy.refuse()
    other.refuse()
    with pytest.raises(psycopg2.OperationalError):
        connector()
    proxy.accept()
    proxy.swallow()
    other.accept()
    other.swallow()
    with ThreadPoolExecutor(8) as threads:
        tries = [threads.submit(_fails, connector) for _ in range(8)]
        eventually(lambda: sum(each.done() for each in tries) >= 6, 50)
        assert not all(each.done() for each in tries), "one or two wait for the server"
        proxy.refuse()
        other.refuse()
        assert all(each.result(60) for each in tries)
    assert proxy.accepted + other.accepted <= 4


def _fails(connector: Connector) -> bool:
    with pytest.raises(psycopg2.OperationalError):
        connector()
    return True
