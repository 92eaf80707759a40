"""One POST is one trace, from the gateway to the stream that shows it: the real Envoy before every
process of Chirp, and a collector."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from mesh import traces
from mesh.settings import Settings
from ops import gateway
from tests.all_processes import Chirp, open_all
from tests.e2e.collector import Collector, Span, collecting
from tests.e2e.gateway_stack import local_gateway, running_envoy, until_status
from tests.integration.accounts import Account

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 20.0
TEXT = "planted marzipan"
FORCED = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
CREATE = "chirp.v1.TweetService/CreateTweet"


@dataclass
class Traced:
    """Chirp behind a gateway, all of it traced."""

    chirp: Chirp
    rest: httpx.AsyncClient
    collector: Collector

    async def span(self, name: str, trace_id: str = "", *, but: frozenset[str]) -> Span:
        """Returns the first span of a name that comes, of another trace than these."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for span in self.collector.spans:
                    wanted = span.trace_id == trace_id if trace_id else span.trace_id not in but
                    if span.name == name and wanted:
                        return span
                await asyncio.sleep(0.05)

    @property
    def known(self) -> frozenset[str]:
        """The traces that came."""
        return frozenset(span.trace_id for span in self.collector.spans)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(
    module_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Traced]:
    folder: Path = tmp_path_factory.mktemp("traces")
    async with collecting() as collector:
        settings = module_settings.model_copy(
            update={"traces": collector.url, "traces_sampled": 1.0}
        )
        # Each process begins them for itself; here all of them are one.
        traces.begin(settings, "chirp")
        try:
            async with open_all(settings) as chirp:
                ports = {name: [int(at.split(":")[1])] for name, at in chirp.addresses.items()}
                described = local_gateway(folder, chirp.settings, ports)
                configuration = folder / "envoy.yaml"
                configuration.write_text(gateway.render(described))
                url = f"http://127.0.0.1:{described.listen.port}"
                async with (
                    running_envoy(configuration),
                    httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as rest,
                ):
                    await until_status(rest, 200, DEADLINE_S)
                    yield Traced(chirp, rest, collector)
        finally:
            await asyncio.to_thread(traces.end)


def bearer(account: Account) -> dict[str, str]:
    return {"authorization": f"Bearer {account.token}"}


async def post(traced: Traced, author: Account, content: str, **headers: str) -> httpx.Response:
    answer = await traced.rest.post(
        "/api/tweets", json={"content": content}, headers={**bearer(author), **headers}
    )
    assert answer.status_code == 200, answer.text
    return answer


def chain(trace: dict[str, Span], span: Span) -> list[Span]:
    """Returns a span and those above it, the root last."""
    found = [span]
    while found[-1].parent_id:
        found.append(trace[found[-1].parent_id])
    return found


async def streamed(
    traced: Traced, reader: Account, act: Callable[[], Awaitable[object]], text: str
) -> None:
    """Does something, and waits until the reader's home stream shows the text."""
    async with (
        asyncio.timeout(DEADLINE_S),
        traced.rest.stream("GET", "/api/timeline/home:stream", headers=bearer(reader)) as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        await act()
        while text not in await anext(lines):
            pass


async def test_a_post_is_one_trace_from_the_gateway_to_the_stream_that_shows_it(
    traced: Traced,
) -> None:
    author, reader = await traced.chirp.accounts.insert(2)
    await traced.chirp.accounts.follow(reader, author)

    await streamed(traced, reader, lambda: post(traced, author, TEXT), TEXT)
    shown = await traced.span("home stream", but=frozenset())
    trace_id = shown.trace_id
    handled = [
        await traced.span(f"handle {group}", trace_id, but=frozenset())
        for group in ("fanout", "notifications", "trends")
    ]
    created = await traced.span(CREATE, trace_id, but=frozenset())
    async with asyncio.timeout(DEADLINE_S):
        while not any(
            each.service == "gateway" for each in traced.collector.of_trace(trace_id).values()
        ):
            await asyncio.sleep(0.05)
    await asyncio.sleep(0)

    trace = traced.collector.of_trace(trace_id)
    for last in (shown, *handled):
        names = [span.name for span in chain(trace, last)]
        assert names[1:3] == ["outbox relay", CREATE], names
        assert chain(trace, last)[-1].service == "gateway"
        assert last.begun >= created.begun
    statements = [span for span in trace.values() if span.name.startswith("PostgreSQL ")]
    assert any("outbox" in span.attributes["db.query.text"] for span in statements)
    assert all(created in chain(trace, span) for span in statements)


async def test_a_span_holds_no_text_name_or_token(traced: Traced) -> None:
    author, reader = await traced.chirp.accounts.insert(2)
    known = traced.known
    await post(traced, author, TEXT)
    await traced.rest.get(f"/api/users/by-username/{author.username}")
    await streamed(
        traced,
        reader,
        lambda: traced.rest.get("/api/me", params={"access_token": reader.token}),
        "",
    )
    async with traced.rest.stream(
        "GET", "/api/timeline/home:stream", params={"access_token": reader.token}
    ) as answer:
        await anext(answer.aiter_lines())
    await traced.span("chirp.v1.UserService/GetUserByUsername", but=known)
    await traced.span(CREATE, but=known)

    said = b"".join(traced.collector.raw)
    for word in (TEXT, author.username, author.token.rsplit(".", 1)[1], reader.token):
        assert word.encode() not in said


async def test_who_calls_does_not_choose_the_trace(traced: Traced) -> None:
    (author,) = await traced.chirp.accounts.insert(1)
    known = traced.known

    await post(traced, author, "hello", traceparent=FORCED, tracestate="a=b")
    created = await traced.span(CREATE, but=known)

    assert created.trace_id != FORCED.split("-")[1]


async def test_a_call_past_the_gateway_begins_or_continues_a_trace(traced: Traced) -> None:
    (author,) = await traced.chirp.accounts.insert(1)
    call = traced.chirp.call("/chirp.v1.UserService/GetMe", "graph_server")
    request = _get_me()
    for traceparent, recorded in (
        (FORCED, True),
        (FORCED[:-2] + "00", False),
    ):
        known = len(traced.collector.spans)
        await call(request, metadata=(*author.metadata, ("traceparent", traceparent)))
        await call(request, metadata=author.metadata)  # a trace of its own: sampled, as all
        trace_id = FORCED.split("-")[1]
        await _until_spans(traced, known + 1 + recorded, "chirp.v1.UserService/GetMe")
        fresh = traced.collector.spans[known:]
        assert (trace_id in {span.trace_id for span in fresh}) == recorded


def _get_me() -> object:
    from chirp.v1 import user_pb2

    return user_pb2.GetMeRequest()


async def _until_spans(traced: Traced, count: int, name: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while sum(span.name == name for span in traced.collector.spans) < count:
            await asyncio.sleep(0.05)
