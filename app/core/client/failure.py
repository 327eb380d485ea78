"""How a call, or one try of it, may end."""

from enum import StrEnum


class Outcome(StrEnum):
    """The label `outcome` of `downstream_requests_total`: a closed set."""

    OK = "ok"
    HTTP_ERROR = "http_error"
    TIMEOUT = "timeout"
    CONNECTION_ERROR = "connection_error"
    INVALID_RESPONSE = "invalid_response"
    BREAKER_OPEN = "breaker_open"


class Failure(Exception):
    """A try, or with it the whole call, failed. It stays in this package: clients get a typed error.

    Parameters
    ----------
    outcome
        What happened.
    status
        The status of the answer, if there was one.
    down
        Whether it speaks against the health of the service, and so counts for the breaker: no answer or a 5xx.
        What Envoy's outlier detection counts: "consecutive 5xx" and "local origin failures".
    retryable
        Whether another try may help.
    retry_after
        Seconds to wait before it, if somebody said so.
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
