"""A collector of traces in the test's own process: takes OTLP by HTTP, and keeps it."""

import asyncio
import gzip
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

HEAD_BYTES_MAX = 65_536


class Span(NamedTuple):
    """A span as it was sent."""

    service: str
    name: str
    trace_id: str
    id: str
    parent_id: str
    attributes: dict[str, str]
    begun: int
    ended: int


@dataclass
class Collector:
    """What came."""

    url: str = ""
    spans: list[Span] = field(default_factory=list[Span])
    raw: list[bytes] = field(default_factory=list[bytes])
    """Everything, as it came."""

    def of_trace(self, trace_id: str) -> dict[str, Span]:
        """Returns the spans of one trace by their ids."""
        return {span.id: span for span in self.spans if span.trace_id == trace_id}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await _body(reader, headers)
                assert head.startswith("post /v1/traces ")
                self._take(gzip.decompress(body) if "content-encoding" in headers else body)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _take(self, body: bytes) -> None:
        self.raw.append(body)
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    Span(
                        named["service.name"],
                        each.name,
                        each.trace_id.hex(),
                        each.span_id.hex(),
                        each.parent_span_id.hex(),
                        {each.key: each.value.string_value for each in each.attributes},
                        each.start_time_unix_nano,
                        each.end_time_unix_nano,
                    )
                    for each in scope.spans
                ]


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    assert headers["transfer-encoding"] == "chunked"  # Envoy's way
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


@asynccontextmanager
async def collecting() -> AsyncGenerator[Collector]:
    """Opens one on a free port."""
    collector = Collector()
    server = await asyncio.start_server(collector.answer, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
    async with server:
        collector.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield collector
