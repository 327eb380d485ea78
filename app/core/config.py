"""Settings. No other module reads the environment (or `.env`)."""

import json
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    HttpUrl,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import __title__

PROBE_PATHS = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Paths that Kubernetes and Prometheus request every few seconds: never rejected, not traced, logged at DEBUG."""

Algorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]
"""Accepted signature algorithms (RFC 7518, section 3.1; RFC 8037): asymmetric ones only."""

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


# A name, an IPv4 or an IPv6 address (with its zone); sockets begin with a slash or, abstract ones, with an @.
_HOST = re.compile(r"[A-Za-z0-9._:%-]*")


def _libpq_url(url: SecretStr) -> SecretStr:
    """Normalise the scheme for libpq, and let libpq check the URL.

    Several hosts are libpq's own syntax, see "Connection URIs" in the PostgreSQL manual (34.1.1.2).
    """
    plain = re.sub(r"^(postgresql\+psycopg2|postgres)://", "postgresql://", url.get_secret_value())
    if not plain.startswith("postgresql://"):
        raise ValueError("must start with postgresql://, postgres:// or postgresql+psycopg2://")
    try:
        given = parse_dsn(plain)
    except (psycopg2.ProgrammingError, UnicodeError):
        # libpq's own message quotes a part of the URL, which may be the password.
        raise ValueError("invalid PostgreSQL URL") from None
    # libpq checks the rest only when it connects.
    hosts, addresses, ports = (given.get(name, "").split(",") for name in ("host", "hostaddr", "port"))
    if any(not _HOST.fullmatch(host) for host in (*hosts, *addresses) if not host.startswith(("/", "@"))):
        raise ValueError("invalid host: encode @, : and / in the user name and the password")
    if any(port and not (port.isdecimal() and 0 < int(port) < 65536) for port in ports):
        raise ValueError("invalid port")
    number = max(len(hosts), len(addresses))
    if len(ports) not in {1, number} or ("host" in given and "hostaddr" in given and len(hosts) != len(addresses)):
        raise ValueError("the number of ports or addresses must equal the number of hosts")
    if not given.get("connect_timeout", "0").isdecimal():
        raise ValueError("invalid connect_timeout: must be a whole number of seconds")
    return SecretStr(plain)


def _service_url(url: HttpUrl) -> HttpUrl:
    """Accept the URL of another service, with or without a path."""
    if url.username is not None or url.password is not None:
        raise ValueError("must not contain credentials")
    if url.query is not None or url.fragment is not None:
        raise ValueError("must not contain a query or a fragment")
    return url


def _http_url(text: str) -> str:
    """Check a URL and keep its spelling: an issuer is compared character by character (RFC 8414, section 3.3)."""
    try:
        url = HttpUrl(text)
    except ValidationError:
        raise ValueError("must be an http or https URL") from None
    if url.username is not None or url.password is not None or url.fragment is not None:
        raise ValueError("must not contain credentials or a fragment")
    return text


def _is_secure(url: str) -> bool:
    """Return whether responses from `url` cannot be altered in transit: it uses TLS, or is on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    with suppress(ValueError):
        return parts.scheme == "https" or ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _addresses(text: str) -> str:
    """Accept what gunicorn accepts: `*`, or addresses and networks separated by commas."""
    for part in text.split(","):
        if part.strip() != "*":
            ip_network(part.strip())
    return text


def _cores() -> int:
    """Return the number of cores that this process may use: its affinity, limited by the cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as quota_file:  # noqa: PTH123
            quota, period = quota_file.read().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or its quota is "max"
        return cores


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
ServiceURL = Annotated[HttpUrl, AfterValidator(_service_url)]
PostgresURL = Annotated[SecretStr, AfterValidator(_libpq_url)]


class EnvironmentSettings(BaseSettings):
    """Settings from environment variables and `.env`: the base of the service's own and of a feature's."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )


class Settings(EnvironmentSettings):
    """All variables that the service reads. Durations are in seconds, sizes in bytes."""

    service_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,63}$")] = __title__
    environment: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,63}$")] = "production"
    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = "INFO"

    host: str = "0.0.0.0"  # noqa: S104 - the container engine decides where the port is published
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    ops_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    web_concurrency: Annotated[int, Field(ge=1, le=256, default_factory=_cores)]
    forwarded_allow_ips: Annotated[str, AfterValidator(_addresses)] = "127.0.0.1"

    database_url: PostgresURL
    database_replica_url: PostgresURL | None = None
    db_pool_size: Annotated[int, Field(ge=1, le=100)] = 8
    db_pool_timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    db_pool_recycle: Annotated[float, Field(gt=0)] = 1800.0
    db_statement_timeout: Annotated[float, Field(ge=0, le=600)] = 5.0
    db_slow_statement: Annotated[float, Field(ge=0, le=600)] = 0.5

    max_body_bytes: Annotated[int, Field(ge=1)] = 1024 * 1024
    max_streams: Annotated[int, Field(ge=1, le=100_000)] = 1000
    cors_origins: CommaSeparated = ()
    trusted_hosts: CommaSeparated = ()

    auth_issuer: Annotated[str, AfterValidator(_http_url)] | None = None
    auth_audience: Annotated[str, Field(max_length=255)] | None = None
    auth_jwks_url: Annotated[str, AfterValidator(_http_url)] | None = None
    auth_jwks_file: FilePath | None = None
    auth_algorithms: Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(_comma_separated)] = ()
    log_caller: bool = True

    docs_enabled: bool = True
    otel_exporter_otlp_endpoint: ServiceURL | None = None

    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 5.0
    shutdown_timeout: Annotated[float, Field(gt=0, le=600)] = 30.0

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Reject a partial configuration, which would only look like authentication.

        Keys that are read without TLS may be forged: RFC 8414, section 2, requires `https` of an issuer.
        """
        auth = {name for name in type(self).model_fields if name.startswith("auth_") and getattr(self, name)}
        required = {"auth_issuer", "auth_audience"}
        if auth and (missing := sorted(required - auth)):
            raise ValueError(f"{missing[0].upper()}: required with {min(auth).upper()}")
        if {"auth_jwks_url", "auth_jwks_file"} <= auth:
            raise ValueError("AUTH_JWKS_FILE: cannot be used with AUTH_JWKS_URL")
        for name in sorted({"auth_issuer", "auth_jwks_url"} & auth):
            if self.environment != "development" and not _is_secure(getattr(self, name)):
                raise ValueError(f"{name.upper()}: must be an https URL, unless ENVIRONMENT=development")
        if self.ops_port is not None and self.ops_port == self.port:
            raise ValueError("OPS_PORT: must differ from PORT")
        return self


def _problem(loc: tuple[int | str, ...], message: str) -> str:
    """Name the variable and the problem; a check of several variables names them itself."""
    if not loc:
        return message.removeprefix("Value error, ")
    return f"{str(loc[0]).upper()}: {message}"


S = TypeVar("S", bound=EnvironmentSettings)


def load(kind: type[S]) -> S:
    """Read settings from the environment, or exit; a feature has its own class for its variables.

    Raises
    ------
    SystemExit
        With exit code 1, after one JSON log line that names every missing or invalid variable, but not its value, which
        may be a secret.
    """
    try:
        return kind()
    except ValidationError as error:
        problems = "; ".join(_problem(e["loc"], e["msg"]) for e in error.errors())
        line = {
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "level": "CRITICAL",
            "logger": __name__,
            "message": f"invalid configuration: {problems}",
            "service": os.environ.get("SERVICE_NAME", __title__),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        sys.exit(1)


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Read the settings of the service; every call returns the same object."""
    return load(Settings)
