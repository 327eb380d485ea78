"""What every error answer has to be."""

from typing import Any

import httpx2


def assert_error(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check the whole envelope, and return its `detail`."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"detail", "trace_id"}
    assert body["trace_id"] == response.headers["x-trace-id"]
    detail: dict[str, Any] = body["detail"]
    assert detail["code"] == code
    assert isinstance(detail["message"], str)
    assert detail["message"]
    assert detail.keys() <= {"code", "message", "errors"}
    for problem in detail.get("errors", ()):
        assert problem.keys() == {"loc", "msg", "type"}
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1
    return detail
