"""One POST is one trace, from the gateway to the stream that shows it: the real Envoy before every
process of Chirp, and a collector."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

import httpx
import pytest
import pytest_asyncio
from chirp.v1 import user_pb2

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
GET_ME = "chirp.v1.UserService/GetMe"


@dataclass
class Traced:
    """Chirp behind a gateway, all of it traced."""

    chirp: Chirp
    rest: httpx.AsyncClient
    collector: Collector

    async def post(self, author: Account, content: str, **headers: str) -> None:
        """Posts a tweet through the gateway."""
        answer = await self.rest.post(
            "/api/tweets", json={"content": content}, headers={**bearer(author), **headers}
        )
        assert answer.status_code == 200, answer.text

    async def first(self, is_it: Callable[[Span], bool]) -> Span:
        """Returns the first span that is the one, once it was sent."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := [span for span in self.collector.spans if is_it(span)]):
                await asyncio.sleep(0.05)
        return found[0]

    async def newest(self, name: str, known: int) -> Span:
        """Returns a span of that name that is not among the first so many."""
        return await self.first(
            lambda span: span.name == name and span in self.collector.spans[known:]
        )

    def chain(self, span: Span) -> list[Span]:
        """Returns a span and those above it, the root last."""
        by_id = {each.id: each for each in self.collector.spans if each.trace_id == span.trace_id}
        found = [span]
        while found[-1].parent_id:
            found.append(by_id[found[-1].parent_id])
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(
    module_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Traced]:
    folder = tmp_path_factory.mktemp("traces")
    async with collecting() as collector:
        settings = module_settings.model_copy(
            update={"traces": collector.url, "traces_sampled": 1.0}
        )
        # Each process begins them for itself; here all of them are one.
        traces.begin(settings, "chirp")
        try:
            async with open_all(settings) as chirp:
                ports = {name: [int(at.split(":")[1])] for name, at in chirp.addresses.items()}
                # A second, as in tests of the gateway's limits, is little where all that is traced
                # is one process.
                described = replace(
                    local_gateway(folder, chirp.settings, ports), call_timeout_s=DEADLINE_S
                )
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


async def streamed(
    traced: Traced, reader: Account, act: Callable[[], Awaitable[object]], text: str
) -> None:
    """Does something, and waits until the reader's home stream shows the text."""
    async with (
        asyncio.timeout(DEADLINE_S),
        traced.rest.stream(
            "GET", "/api/timeline/home:stream", params={"access_token": reader.token}
        ) as answer,
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

    await streamed(traced, reader, lambda: traced.post(author, TEXT), TEXT)
    shown = await traced.first(lambda span: span.name == "home stream")

    async def of_this(name: str) -> Span:
        return await traced.first(
            lambda span: span.trace_id == shown.trace_id and span.name.startswith(name)
        )

    created, root = await of_this(CREATE), await of_this("ingress")
    assert root.service == "gateway"
    for name in ("handle fanout", "handle trends", "handle notifications", "home stream"):
        chain = traced.chain(await of_this(name))
        assert [span.name for span in chain[1:3]] == ["outbox relay", CREATE]
        assert chain[-1] == root
        assert all(above.begun <= span.begun for span, above in itertools.pairwise(chain))
    statements = [
        span
        for span in traced.collector.spans
        if span.trace_id == shown.trace_id and "db.query.text" in span.attributes
    ]
    assert any("INSERT INTO outbox" in span.attributes["db.query.text"] for span in statements)
    assert all(created in traced.chain(span) for span in statements)


async def test_each_of_the_tweets_that_are_written_together_has_its_own_trace(
    traced: Traced,
) -> None:
    authors = await traced.chirp.accounts.insert(16)
    known = len(traced.collector.spans)

    await asyncio.gather(*(traced.post(author, "hello") for author in authors))

    def written() -> list[str]:
        return [
            span.trace_id for span in traced.collector.spans[known:] if span.name == "group commit"
        ]

    async with asyncio.timeout(DEADLINE_S):
        while len(written()) < len(authors):
            await asyncio.sleep(0.05)
    assert len(set(written())) == len(authors)


async def test_a_span_holds_no_text_name_or_token(traced: Traced) -> None:
    author, reader = await traced.chirp.accounts.insert(2)
    await traced.chirp.accounts.follow(reader, author)
    known = len(traced.collector.spans)

    await streamed(traced, reader, lambda: traced.post(author, TEXT), TEXT)
    for path in (f"/api/users/by-username/{author.username}", "/api/users/by-username/nobody_here"):
        await traced.rest.get(path, headers=bearer(author))
    for name in ("home stream", CREATE, "chirp.v1.UserService/GetUserByUsername"):
        await traced.newest(name, known)

    said = b"".join(traced.collector.raw)
    for word in (TEXT, author.username, "nobody_here", author.token, reader.token):
        assert word.encode() not in said


async def test_a_client_of_the_gateway_does_not_choose_the_trace(traced: Traced) -> None:
    (author,) = await traced.chirp.accounts.insert(1)
    known = len(traced.collector.spans)

    await traced.post(author, "hello", traceparent=FORCED, tracestate="a=b")
    created = await traced.newest(CREATE, known)

    assert created.trace_id != FORCED.split("-")[1]


async def test_a_call_past_the_gateway_continues_its_trace_as_sampled(traced: Traced) -> None:
    (author,) = await traced.chirp.accounts.insert(1)
    call = traced.chirp.call(f"/{GET_ME}", "graph_server")

    async def recorded(*headers: tuple[str, str]) -> list[Span]:
        known = len(traced.collector.spans)
        await call(user_pb2.GetMeRequest(), metadata=(*author.metadata, *headers))
        await call(user_pb2.GetMeRequest(), metadata=author.metadata)
        await traced.newest(GET_ME, known)
        # Both were sent in their order: where the second is here, the first is, or never comes.
        second = await traced.first(
            lambda span: (
                span.name == GET_ME
                and span.trace_id != FORCED.split("-")[1]
                and span in traced.collector.spans[known:]
            )
        )
        end = traced.collector.spans.index(second)
        return [span for span in traced.collector.spans[known:end] if span.name == GET_ME]

    (continued,) = await recorded(("traceparent", FORCED))
    assert (continued.trace_id, continued.parent_id) == tuple(FORCED.split("-")[1:3])
    assert await recorded(("traceparent", FORCED[:-2] + "00")) == []
