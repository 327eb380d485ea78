"""`docs/api.md` tells the truth: each line is run against the real service, and its answer is the one on the page."""

import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from app.core.errors import APIError
from tests.conftest import StartService
from tests.support.service import ROOT

PAGE = ROOT / "docs" / "api.md"
HOST = "localhost:8000"
# What cannot be the same twice; the page itself says so.
VARYING = {
    # Python 3.13 has RFC 9110's name for it.
    r"Unprocessable Entity": "Unprocessable Content",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "<time>",
    r"(?m)^date: .*": "date: <date>",
    r'(?<=trace_id":")[0-9a-f]{32}|(?<=x-trace-id: )[0-9a-f]{32}': "<trace id>",
    r'(?<=next_cursor":")[\w-]{24,}|(?<=cursor=)[\w-]{24,}': "<cursor>",
}


def console_blocks() -> str:
    """Join what stands in the page's console blocks."""
    return "".join(re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


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
def test_the_page_is_what_happens(start_service: StartService) -> None:
    session = exchanges(console_blocks())
    assert len(session) > 25
    assert "HTTP/1.1 5" not in console_blocks()

    answers = run([command for command, _ in session], start_service().url.removeprefix("http://"))

    for (command, expected), actual in zip(session, answers, strict=True):
        assert comparable(actual) == comparable(expected), command


def error_classes() -> Iterator[type[APIError]]:
    """List the errors of the service, those of modules that are imported when they are needed included."""
    for path in (ROOT / "app" / "core").rglob("*.py"):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    kinds = [APIError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("app."):
            yield kind


def test_the_page_has_every_operation_and_every_error_code() -> None:
    page = PAGE.read_text()

    for operation in (
        "/items ",
        "/items/batch",
        "/items/1",
        "PATCH",
        "DELETE",
        "/items/1/stock",
        "/health/live",
        "/health/ready",
        "/metrics",
    ):
        assert operation in console_blocks()
    codes = {kind.code for kind in error_classes()}
    assert {"ITEM_NOT_FOUND", "PRECONDITION_FAILED", "DATABASE_ERROR"} <= codes
    missing = [code for code in sorted(codes) if f"`{code}`" not in page]
    assert missing == [], "list these codes in docs/api.md, for clients"
