"""Traces (OpenTelemetry), where CHIRP_TRACES names a collector: what one request does, in all
processes that it reaches.

A trace begins at the gateway, which decides whether it is *sampled*: one in so many, by
CHIRP_TRACES_SAMPLED. The W3C `traceparent` goes along with calls (`mesh/requests.py`) and inside of
events (`Event.trace`), so one POST is one trace: gateway, tweet_server, the statements of its
transaction, the relay, each consumer group, and the first home streams that show it.

What is not sampled makes no span, and costs a look at the headers. Off, nothing of OpenTelemetry is
imported, and methods and connections are not wrapped. Spans hold RPCs, statements without their
values, ids of partitions and groups; never a header, a parameter or a text.
"""

import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from chirp.v1 import events_pb2

from mesh import requests
from mesh.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

EXPORT_S: Final = 2.0  # longest wait for the collector; what it does not take is dropped
QUEUE_MAX: Final = 2_048
STATEMENT_CHARACTERS_MAX: Final = 500

_SPAN: "ContextVar[Span | None]" = ContextVar("_SPAN", default=None)
"""The sampled span of this task."""


class _Provider:
    """What there is where traces are on: one for each process."""

    def __init__(self, provider: "TracerProvider", sampled: float) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer("chirp")
        self.sampled = sampled


_on: _Provider | None = None


def begin(settings: Settings, process: str) -> None:
    """Turns traces on, where the settings say so; before anything is bound or opened."""
    if settings.traces:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(f"{settings.traces.rstrip('/')}/v1/traces", timeout=EXPORT_S)
        provider = TracerProvider(
            resource=Resource({"service.name": process, "service.namespace": "chirp"}),
            span_limits=SpanLimits(max_attributes=16, max_events=4, max_links=4),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=QUEUE_MAX,
                schedule_delay_millis=500,
                export_timeout_millis=EXPORT_S * 1_000,
            )
        )
        use(provider, settings.traces_sampled)


def use(provider: "TracerProvider | None", sampled: float = 1.0) -> None:
    """Turns traces on with a provider, or off with None."""
    global _on
    _on = None if provider is None else _Provider(provider, sampled)


def end() -> None:
    """Sends what is left, and turns traces off. Blocks up to EXPORT_S."""
    if _on is not None:
        _on.provider.shutdown()
        use(None)


def enabled() -> bool:
    """Whether they are on: asked once, when something is bound or opened."""
    return _on is not None


def current() -> str:
    """Returns the `traceparent` of this task's span; empty where it is not sampled."""
    span = _SPAN.get()
    return "" if span is None else _traceparent(span)


def served(path: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Returns a unary method of a server, with a span for each sampled call."""
    from opentelemetry.trace import SpanKind

    async def traced(request: Any, call: Any) -> Any:
        parent = requests.traceparent()
        if not (_is_sampled(parent) if parent else _draw()):
            return await method(request, call)
        with _running(path.removeprefix("/"), parent, SpanKind.SERVER, {"rpc.system": "grpc"}):
            return await method(request, call)

    return traced


@contextmanager
def span(name: str, **attributes: str | int) -> Generator[None]:
    """A step of what this task does, where that is sampled."""
    if _SPAN.get() is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    with _running(name, current(), SpanKind.INTERNAL, attributes):
        yield


def statement(query: object) -> Any:
    """A statement sent to PostgreSQL, as its source has it: values are not part of it."""
    text = query if isinstance(query, str) else ""
    attributes = {"db.system": "postgresql", "db.query.text": text[:STATEMENT_CHARACTERS_MAX]}
    return span("PostgreSQL " + text.partition(" ")[0], **attributes)


@contextmanager
def under(traceparents: Iterable[str]) -> Generator[None]:
    """Goes on with the first sampled of these spans, which another task began."""
    parent = next((each for each in traceparents if each), "")
    if not parent or _on is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    with _running("group commit", parent, SpanKind.INTERNAL, {}):
        yield


def of_event(payload: bytes) -> str:
    """Returns the `traceparent` that an event brings along; empty where it was not sampled."""
    if _on is None:
        return ""
    parent = events_pb2.Event.FromString(payload).trace
    return parent if _is_sampled(parent) else ""


class Step:
    """A step of an event on its way, for one event or many of a batch: their spans begin and end
    together. To be used where traces are on."""

    def __init__(self, name: str, parents: Sequence[str], **attributes: str | int) -> None:
        from opentelemetry.trace import SpanKind

        assert _on is not None
        self._spans = {
            parent: _on.tracer.start_span(
                name, context=_context(parent), kind=SpanKind.CONSUMER, attributes=attributes
            )
            for parent in parents
            if parent
        }

    def behind(self, parent: str) -> str:
        """Returns the `traceparent` for what follows this step."""
        return _traceparent(self._spans[parent])

    def end(self) -> None:
        """All of it is done."""
        for each in self._spans.values():
            each.end()


def step(name: str, payloads: Iterable[bytes], **attributes: str | int) -> Step | None:
    """Begins a step of all sampled events; None where there are none."""
    parents = [parent for payload in payloads if (parent := of_event(payload))] if _on else []
    return Step(name, parents, **attributes) if parents else None


def mark(name: str, parent: str) -> None:
    """Takes note of the moment in which a sampled event got somewhere."""
    if _on is not None and _is_sampled(parent):
        Step(name, [parent]).end()


@contextmanager
def _running(name: str, parent: str, kind: Any, attributes: Any) -> Generator[None]:
    from opentelemetry.trace import Status, StatusCode

    assert _on is not None
    each = _on.tracer.start_span(
        name, context=_context(parent), kind=kind, attributes=attributes,
        record_exception=False, set_status_on_exception=False,
    )  # fmt: skip
    token = _SPAN.set(each)
    try:
        yield
    except Exception as error:
        # What it says may be what somebody wrote.
        each.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        _SPAN.reset(token)
        each.end()


def _context(parent: str) -> Any:
    from opentelemetry import trace
    from opentelemetry.context import Context

    if not parent:
        return Context()
    _, trace_id, span_id, flags = parent.split("-")
    remote = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())


def _traceparent(span: "Span") -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def _is_sampled(parent: str) -> bool:
    # Whoever wrote it: it must be one.
    return requests.TRACEPARENT.fullmatch(parent) is not None and int(parent[-2:], 16) & 1 == 1


def _draw() -> bool:
    # Called past the gateway, by one of our own or an internal service.
    return _on is not None and random.random() < _on.sampled  # noqa: S311 - no secret
