"""Outcomes of a call, or of one attempt."""

from enum import StrEnum


class Outcome(StrEnum):
    """The values of the label `outcome` of `downstream_requests_total`."""

    OK = "ok"
    HTTP_ERROR = "http_error"
    TIMEOUT = "timeout"
    CONNECTION_ERROR = "connection_error"
    INVALID_RESPONSE = "invalid_response"
    BREAKER_OPEN = "breaker_open"


class Failure(Exception):
    """An attempt failed, and perhaps the whole call. Used in this package only: clients get a typed error.

    Parameters
    ----------
    outcome
        What happened.
    status
        The status of the response, if there was one.
    down
        Whether it counts as a failure of the service for the breaker: no response, or a 5xx. Envoy's outlier detection
        counts the same: "consecutive 5xx" and "local origin failures".
    retryable
        Whether another attempt may succeed.
    retry_after
        Seconds to wait before it, if known.
    """

    def __init__(
        self,
        outcome: Outcome,
        *,
        status: int | None = None,
        down: bool = False,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.status = status
        self.down = down
        self.retryable = retryable
        self.retry_after = retry_after
