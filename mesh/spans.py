"""The OpenTelemetry side of `traces.py`, which imports it where traces are on, and only then."""

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind

EXPORT_S = 2.0  # longest wait for the collector; what it does not take is dropped
EXPORT_EVERY_S = 1.0
QUEUE_MAX = 2_048


class Spans:
    """Makes the spans of one process, and sends them from a thread of its own."""

    def __init__(self, collector: str, process: str) -> None:
        exporter = OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces", timeout=EXPORT_S)
        self._provider = TracerProvider(
            resource=Resource({"service.name": process, "service.namespace": "chirp"}),
            span_limits=SpanLimits(max_attributes=16, max_events=4, max_links=4),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=QUEUE_MAX,
                schedule_delay_millis=EXPORT_EVERY_S * 1_000,
                export_timeout_millis=EXPORT_S * 1_000,
            )
        )
        self._tracer = self._provider.get_tracer("chirp")

    def start(
        self, name: str, parent: str, kind: SpanKind, attributes: Mapping[str, str] | None = None
    ) -> Span:
        """Begins a span under a sampled `traceparent`, or, where that is empty, a trace."""
        return self._tracer.start_span(
            name,
            context=_context(parent),
            kind=kind,
            attributes=attributes,
            # What an error says may be what somebody wrote.
            record_exception=False,
            set_status_on_exception=False,
        )

    def close(self) -> None:
        """Sends what is left; takes up to twice EXPORT_S where the collector hangs."""
        self._provider.shutdown()


def traceparent(span: Span) -> str:
    """Returns what goes along with calls and events."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def _context(parent: str) -> Context:
    if not parent:
        return Context()
    _, trace_id, span_id, flags = parent.split("-")
    above = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())
