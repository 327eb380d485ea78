"""The pages tell the truth: each command of their `console` blocks is run against the real service, and answered so."""

import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.errors import APIError
from tests.conftest import StartService
from tests.support.service import ROOT

PAGES = sorted(page for page in (ROOT / "docs").glob("*.md") if "\n```console\n" in page.read_text())
HOST = "localhost:8000"
# What cannot be the same twice (docs/api.md says so), and the version, which a release changes.
VARYING = {
    # Python 3.13 has RFC 9110's name for it.
    r"Unprocessable Entity": "Unprocessable Content",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "<time>",
    r"(?m)^date: .*": "date: <date>",
    r'(?<=trace_id":")[0-9a-f]{32}|(?<=x-trace-id: )[0-9a-f]{32}': "<trace id>",
    r'(?<=version=")[^"]+': "<version>",
    r'(?<=next_cursor":")[\w-]{24,}|(?<=cursor=)[\w-]{24,}': "<cursor>",
}


def console_blocks(page: Path) -> str:
    """Join what stands in a page's console blocks."""
    return "".join(re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))


def exchanges(session: str) -> list[tuple[str, str]]:
    """Split a session into commands and what they printed."""
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)
    assert not parts[0], "output without a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def run(commands: list[str], address: str) -> list[str]:
    """Run the commands in one shell, and return what each printed."""
    mark = "--- end of answer ---"
    script = "\n".join(f"{command.replace(HOST, address)}\necho; echo '{mark}'" for command in commands)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300, check=True)
    return [answer.replace(address, HOST).strip("\n") for answer in done.stdout.split(mark)[:-1]]


def comparable(answer: str) -> str:
    """Take out what varies, and put header fields in order."""
    answer = answer.replace("\r", "")
    answer = own_length(answer)
    for pattern, stand_in in VARYING.items():
        answer = re.sub(pattern, stand_in, answer)
    if answer.startswith("HTTP/"):
        head, _, body = answer.partition("\n\n")
        answer = "\n".join([*sorted(head.split("\n")), "", body])
    return answer.strip("\n")


def own_length(answer: str) -> str:
    """Replace `Content-Length` where it is that of the body that follows; its length varies with what varies in it."""
    _, _, body = answer.partition("\n\n")
    length = f"content-length: {len(body.strip(chr(10)).encode())}\n"
    return answer.replace(length, "content-length: <of the body>\n") if body else answer


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_is_what_happens(start_service: StartService, page: Path) -> None:
    session = exchanges(console_blocks(page))
    assert "HTTP/1.1 5" not in console_blocks(page)
    service = start_service(app="app.main:app")

    answers = run([command for command, _ in session], service.url.removeprefix("http://"))

    for (command, expected), actual in zip(session, answers, strict=True):
        assert comparable(actual) == comparable(expected), command


def error_classes() -> Iterator[type[APIError]]:
    """List the errors of the platform, those of modules that are imported when they are needed included."""
    for path in (ROOT / "app" / "core").rglob("*.py"):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    kinds = [APIError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("app.core."):
            yield kind


def test_the_page_of_the_api_has_every_error_code() -> None:
    page = (ROOT / "docs" / "api.md").read_text()

    codes = {kind.code for kind in error_classes()}
    assert {"PRECONDITION_FAILED", "DATABASE_ERROR"} <= codes
    missing = [code for code in sorted(codes) if f"`{code}`" not in page]
    assert missing == [], "list these codes in docs/api.md, for clients"
