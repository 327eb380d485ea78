"""An OpenTelemetry collector on loopback: it decodes what comes by OTLP/HTTP, and keeps it."""

import gzip
import http.server
import threading
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.service import eventually


class Collector:
    """The collector.

    Attributes
    ----------
    url
        For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    spans
        What came so far.
    resources
        Attributes of those who sent.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep what came."""
        for resource in request.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def of(self, trace_id: str) -> list[Span]:
        """Wait for the request's own span, which ends last, and list the trace's spans."""

        def whole() -> list[Span]:
            spans = [span for span in self.spans if span.trace_id.hex() == trace_id]
            return spans if any(span.kind == Span.SPAN_KIND_SERVER for span in spans) else []

        spans: list[Span] = eventually(whole)
        return spans

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def attributes(span: Span) -> dict[str, Any]:
    """Read a span's attributes."""
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
