"""`/docs` and `/redoc` in a real browser: they render, they call the service, and nothing leaves this host."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

from app import __title__
from tests.conftest import MakeClient, StartService
from tests.support.errors import assert_error
from tests.support.service import Service
from tests.support.tokens import AUDIENCE, ISSUER, Signer

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,2000",
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Start Chromium with an empty profile; its network events are logged."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options, Driver(DRIVER))
    browser.set_page_load_timeout(120)
    yield browser
    browser.quit()


def appearing(browser: webdriver.Chrome, selector: str, text: str = "") -> WebElement:
    """Wait for an element, and for a text in it."""
    wait = WebDriverWait(browser, 120)
    present = expected_conditions.text_to_be_present_in_element((By.CSS_SELECTOR, selector), text)
    wait.until(present, f"no {text!r} in {selector}")
    return browser.find_element(By.CSS_SELECTOR, selector)


def click(browser: webdriver.Chrome, selector: str) -> None:
    """Wait until it can be clicked, and click."""
    wait = WebDriverWait(browser, 120)
    wait.until(expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, selector))).click()


def execute(browser: webdriver.Chrome, operation: str, **parameters: str) -> str:
    """Try an operation of Swagger UI out, and return the body of its answer, a 200."""
    click(browser, f"{operation} .opblock-summary-control")
    click(browser, f"{operation} .try-out__btn")
    for name, value in parameters.items():
        appearing(browser, f"{operation} tr[data-param-name={name}] input").send_keys(value)
    click(browser, f"{operation} .execute")
    answer = f"{operation} .live-responses-table .response"
    assert "200" in appearing(browser, f"{answer} .response-col_status", "200").text
    return appearing(browser, f"{answer} .response-col_description pre", "next_cursor").text


def assert_stayed_here(browser: webdriver.Chrome, service: Service) -> None:
    """Check that every request of the page went to the service, and was answered."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    events: dict[str, list[dict[str, Any]]] = {}
    for message in messages:
        events.setdefault(message["method"], []).append(message["params"])
    sent = {event["requestId"]: event["request"]["url"] for event in events["Network.requestWillBeSent"]}
    # What Chromium itself asks for when it starts is not among them.
    failed = [event for event in events.get("Network.loadingFailed", []) if event["requestId"] in sent]
    # What the page's own policy stopped did not leave: ReDoc's logo.
    for event in failed:
        assert event.get("blockedReason") == "csp", (sent[event["requestId"]], event)
        del sent[event["requestId"]]
    assert {urlsplit(url).netloc for url in sent.values() if url.startswith("http")} == {urlsplit(service.url).netloc}
    assert {event["response"]["status"] for event in events["Network.responseReceived"]} <= {200, 304}
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert not [complaint for complaint in complaints if "cdn.redoc.ly" not in complaint]


def test_swagger_ui_calls_the_service(browser: webdriver.Chrome, service: Service, tmp_path: Path) -> None:
    thing = service.client.post("/things", json={"name": "Browser", "price": 4711.42}).json()

    browser.get(f"{service.url}/docs")
    appearing(browser, ".title", __title__)
    answer = execute(browser, "#operations-things-list_things", min_price="4711.42")

    assert thing in json.loads(answer)["items"]
    screenshot = tmp_path / "docs.png"
    assert browser.save_screenshot(str(screenshot))
    assert screenshot.stat().st_size > 10_000
    assert_stayed_here(browser, service)


def test_swagger_ui_sends_the_token_that_was_entered(
    browser: webdriver.Chrome, start_service: StartService, tmp_path: Path
) -> None:
    signer, keys = Signer(), tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [signer.jwk]}))
    service = start_service(AUTH_ISSUER=ISSUER, AUTH_AUDIENCE=AUDIENCE, AUTH_JWKS_FILE=str(keys))

    browser.get(f"{service.url}/docs")
    click(browser, ".scheme-container .authorize")
    appearing(browser, ".auth-container input").send_keys(signer.token(scope="things:read"))
    click(browser, ".auth-container .authorize")
    appearing(browser, ".auth-container .auth-btn-wrapper", "Logout")
    click(browser, ".auth-container .btn-done")
    answer = execute(browser, "#operations-things-list_things")

    assert json.loads(answer) == {"items": [], "next_cursor": None}
    assert_stayed_here(browser, service)


def test_redoc_renders(browser: webdriver.Chrome, service: Service, tmp_path: Path) -> None:
    browser.get(f"{service.url}/redoc")

    appearing(browser, "h1", __title__)
    appearing(browser, "[data-section-id='tag/things/operation/create_thing']", "Create a thing")
    assert browser.save_screenshot(str(tmp_path / "redoc.png"))
    assert_stayed_here(browser, service)


def test_the_pages_name_no_other_host(service: Service) -> None:
    for path in ("/docs", "/redoc"):
        page = service.client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "//" not in page.text.replace("<!--", "").replace("// ", "")


def test_a_file_that_is_not_there(service: Service) -> None:
    for name in ("x.js", "..%2Fcore.py", "%2E%2E/core.py", ""):
        assert service.client.get(f"/docs/assets/{name}").status_code == 404
    metrics = service.client.get("/metrics").text
    assert 'path="/docs/assets/{name}"' in metrics
    assert "x.js" not in metrics


def test_docs_can_be_switched_off(make_client: MakeClient) -> None:
    client = make_client(docs_enabled=False)

    for path in ("/docs", "/redoc", "/openapi.json", "/docs/assets/swagger-ui.css"):
        assert_error(client.get(path), 404, "NOT_FOUND")
    assert client.get("/health/live").status_code == 200
