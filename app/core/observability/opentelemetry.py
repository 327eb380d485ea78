"""Traces by OpenTelemetry: requests, statements, calls to other services. See docs/adr/0011-*.

`app.core.application` imports this module only if `OTEL_EXPORTER_OTLP_ENDPOINT` is set: otherwise it costs nothing.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import MutableMapping
from contextvars import Context as ContextVarsContext
from contextvars import ContextVar
from typing import Any

import httpx2
from fastapi.telemetry import TelemetryConfig
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import CarrierT, Getter, default_getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from app import __version__
from app.core.config import PROBE_PATHS, Settings
from app.core.observability.trace_id import (
    Parent,
    expect_trace_id,
    followers,
    ids_of,
    new_trace_id,
    set_otel_trace_id,
    w3c_trace_id,
)

# By default the instrumentation of httpx2 uses the conventions of 2021; FastAPI uses the stable ones.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")

from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor

_EXPORT_SECONDS = 5.0
"""A batch is dropped if the collector takes longer."""
_LAST_SECONDS = 2.0
"""Time to send the remaining spans when the process ends."""

_root: ContextVar[int | None] = ContextVar("root_trace_id", default=None)
_own_id: ContextVar[str | None] = ContextVar("own_trace_id", default=None)


class _Ids(RandomIdGenerator):
    """Gives a new trace the id of its request."""

    def generate_trace_id(self) -> int:
        chosen = _root.get()
        _root.set(None)
        return chosen or super().generate_trace_id()


class _Propagator(TraceContextTextMapPropagator):
    """Reads headers with `app.core.observability.trace_id`, so that both use the same trace."""

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """Choose the trace of a request; its span begins next, in the same context."""
        context = context if context is not None else Context()
        if not isinstance(carrier, Headers):
            return super().extract(carrier, context, getter)
        given, parent = ids_of(carrier.raw)
        if given is None and parent is None:
            given = new_trace_id()
            expect_trace_id(given)
        w3c_id = w3c_trace_id(given) if given is not None else None
        if parent is not None and w3c_id in {None, parent.trace_id}:
            return trace.set_span_in_context(_remote(parent, carrier), context)
        assert given is not None  # noqa: S101 - otherwise there is a parent, which was returned above
        if w3c_id == given or parent is None:
            _root.set(int(w3c_id or "", 16))
        else:  # an id of another form beside a trace: continue the trace
            w3c_id = parent.trace_id
            context = trace.set_span_in_context(_remote(parent, carrier), context)
        if w3c_id != given:
            set_otel_trace_id(w3c_id)
            _own_id.set(given)
        return context


def _remote(parent: Parent, headers: Headers) -> NonRecordingSpan:
    context = SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags & TraceFlags.SAMPLED),
        trace_state=TraceState.from_header(headers.getlist("tracestate")),
    )
    return NonRecordingSpan(context)


class _Finish(SpanProcessor):
    """Adds the request's own id where it differs, and removes query strings, which the logs omit as well."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        if span.kind is not SpanKind.SERVER:
            return
        if (own_id := _own_id.get()) is not None:
            span.set_attribute("app.trace_id", own_id)
        if span.attributes and "url.query" in span.attributes:
            span.set_attribute("url.query", "REDACTED")


class Telemetry:
    """The spans of one app, and their export. Create it after the fork: it starts a thread.

    Parameters
    ----------
    settings
        With `otel_exporter_otlp_endpoint`. Sampler, headers, batches and limits are the SDK's, by its own
        variables (`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_BSP_*`, ...).

    Attributes
    ----------
    config
        For `FastAPI(telemetry=...)`.
    observe_statement
        For `Database(observers=...)`.
    """

    def __init__(self, settings: Settings) -> None:
        resource = Resource.create(
            {
                "service.name": settings.service_name,
                "service.version": __version__,
                "deployment.environment.name": settings.environment,
            }
        )
        self._provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
        self._provider.add_span_processor(_Finish())
        endpoint = f"{str(settings.otel_exporter_otlp_endpoint).rstrip('/')}/v1/traces"
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
        # A full queue drops spans: no request ever waits for the collector.
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        propagate.set_global_textmap(_Propagator())
        self.config: TelemetryConfig = {
            "tracer_provider": self._provider,
            "tracing": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_untraced,
        }
        self.observe_statement = _Statements(self._provider.get_tracer("app.core.database", __version__))

    def trace_calls(self, client: httpx2.AsyncClient) -> None:
        """Trace the requests that `client` sends."""
        HTTPX2ClientInstrumentor.instrument_client(client, tracer_provider=self._provider)

    async def stop(self) -> None:
        """Send the remaining spans, with a timeout."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the wait has timed out, and the loop is closed
                loop.call_soon_threadsafe(sent.set)

        # A thread that is not joined: the exporter waits for an unavailable collector.
        threading.Thread(target=send, daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sent.wait(), _LAST_SECONDS)


def _follow_span(context: ContextVarsContext) -> None:
    """Continue the span of another context, without its baggage."""
    attach(trace.set_span_in_context(context.run(trace.get_current_span), Context()))


followers.append(_follow_span)


def _is_untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in PROBE_PATHS


class _Statements:
    """Creates a span for every statement, in the trace of the request that ran it."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def __call__(self, cursor: Any, statement: str, seconds: float, error: Exception | None) -> None:  # noqa: ANN401
        operation = statement.split(None, 1)[0].upper()
        server = cursor.connection.info
        ended_at = time.time_ns()
        span = self._tracer.start_span(
            operation,
            kind=SpanKind.CLIENT,
            start_time=ended_at - round(seconds * 1e9),
            attributes={
                "db.system.name": "postgresql",
                "db.namespace": server.dbname,
                "db.operation.name": operation,
                "db.query.text": statement,  # with placeholders, never with values
                "server.address": server.host or "",
                "server.port": server.port,
            },
        )
        if error is not None:
            # Only the SQLSTATE: the server's text quotes values.
            state = getattr(error, "pgcode", None)
            if state:
                span.set_attribute("db.response.status_code", state)
            span.set_attribute("error.type", state or type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)
