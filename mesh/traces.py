"""Traces (OpenTelemetry), where CHIRP_TRACES names a collector: what one request does, in all
processes that it reaches.

A trace begins at the gateway, which decides whether it is *sampled*: one in so many, by
CHIRP_TRACES_SAMPLED. The W3C `traceparent` goes along with calls (`mesh/requests.py`) and inside of
events (`Event.trace`), so one POST is one trace: gateway, tweet_server, the statements of its
transaction, the relay, each consumer group, and the first home stream of each server that shows it.

What is not sampled makes no span, and costs a look at the headers. Off, nothing of OpenTelemetry is
imported, and methods and connections are not wrapped. Spans hold the names of RPCs and groups, and
statements without their values; never a header, a parameter or a text.
"""

import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from chirp.v1 import events_pb2

from mesh import requests
from mesh.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind

    from mesh.spans import Spans

STATEMENT_CHARACTERS_MAX: Final = 500

_SPAN: "ContextVar[Span | None]" = ContextVar("_SPAN", default=None)
"""The span of what this task does, where that is sampled."""
_NOTHING: Final = nullcontext()

_spans: "Spans | None" = None
"""What there is where traces are on: one for each process."""
_sampled = 0.0


def begin(settings: Settings, process: str) -> None:
    """Turns traces on, where the settings say so; before anything is bound or opened."""
    global _spans, _sampled
    if settings.traces:
        from mesh.spans import Spans

        _spans, _sampled = Spans(settings.traces, process), settings.traces_sampled


def end() -> None:
    """Sends what is left, and turns traces off. May block for four seconds."""
    global _spans
    if _spans is not None:
        _spans.close()
        _spans = None


def enabled() -> bool:
    """Whether they are on: asked once, when something is bound or opened."""
    return _spans is not None


def current() -> str:
    """Returns the `traceparent` of this task's span; empty where it is not sampled."""
    span = _SPAN.get()
    return "" if span is None else _traceparent(span)


def served(path: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Returns a unary method of a server, with a span for each sampled call."""
    from opentelemetry.trace import SpanKind

    name, attributes = path.removeprefix("/"), {"rpc.system": "grpc"}

    async def traced(request: Any, call: Any) -> Any:
        parent = requests.traceparent()
        # Without one, it was called past the gateway, by one of our own or an internal service.
        if not (_is_sampled(parent) if parent else random.random() < _sampled):  # noqa: S311
            return await method(request, call)
        with _running(name, parent, SpanKind.SERVER, attributes):
            return await method(request, call)

    return traced


def statement(query: object) -> AbstractContextManager[None]:
    """A statement sent to PostgreSQL, as its source has it: values are not part of it."""
    if _SPAN.get() is None:
        return _NOTHING
    from opentelemetry.trace import SpanKind

    text = query if isinstance(query, str) else ""
    attributes = {"db.system": "postgresql", "db.query.text": text[:STATEMENT_CHARACTERS_MAX]}
    name = f"PostgreSQL {(text.split(maxsplit=1) or ['statement'])[0].rstrip(';')}"
    return _running(name, current(), SpanKind.CLIENT, attributes)


@contextmanager
def together(name: str, parents: Iterable[str]) -> Generator[None]:
    """What is done at once for several spans that other tasks began: a step below each that is
    sampled. What it does itself stands below the first."""
    first, *others = dict.fromkeys(each for each in parents if each) or [""]
    if not first:
        yield
        return
    from opentelemetry.trace import SpanKind

    step = Step(name, others)
    try:
        with _running(name, first, SpanKind.INTERNAL):
            yield
    finally:
        step.end()


def of_event(payload: bytes) -> str:
    """Returns the `traceparent` that an event brings along; empty where it was not sampled."""
    if _spans is None:
        return ""
    parent = events_pb2.Event.FromString(payload).trace
    return parent if _is_sampled(parent) else ""


class Step:
    """One step of all that is below these sampled spans: it begins and ends for all at once. To be
    made where traces are on."""

    def __init__(self, name: str, parents: Iterable[str]) -> None:
        from opentelemetry.trace import SpanKind

        spans = _require()
        self._by_parent = {
            parent: spans.start(name, parent, SpanKind.CONSUMER)
            for parent in dict.fromkeys(parents)
        }

    def behind(self, parent: str) -> str:
        """Returns the `traceparent` for what follows this step; empty where it has no such span
        above it."""
        span = self._by_parent.get(parent)
        return "" if span is None else _traceparent(span)

    def end(self) -> None:
        """All of it is done."""
        for each in self._by_parent.values():
            each.end()


def step(name: str, payloads: Iterable[bytes]) -> Step | None:
    """Begins a step of those events that are sampled; None where none is."""
    parents = [parent for payload in payloads if (parent := of_event(payload))] if _spans else []
    return Step(name, parents) if parents else None


def mark(name: str, parent: str) -> None:
    """Takes note of the moment in which a sampled event got somewhere."""
    if _spans is not None and _is_sampled(parent):
        Step(name, [parent]).end()


@contextmanager
def _running(
    name: str, parent: str, kind: "SpanKind", attributes: Mapping[str, str] | None = None
) -> Generator[None]:
    from opentelemetry.trace import Status, StatusCode

    span = _require().start(name, parent, kind, attributes)
    token = _SPAN.set(span)
    try:
        yield
    except Exception as error:
        # Its class, because what it says may be what somebody wrote.
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        _SPAN.reset(token)
        span.end()


def _require() -> "Spans":
    assert _spans is not None, "asked for where traces are on"
    return _spans


def _traceparent(span: "Span") -> str:
    from mesh.spans import traceparent

    return traceparent(span)


def _is_sampled(parent: str) -> bool:
    # Whoever wrote it: it must be one.
    return requests.TRACEPARENT.fullmatch(parent) is not None and int(parent[-2:], 16) & 1 == 1
