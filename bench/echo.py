"""The bare echo: what Python's gRPC server can do when it does nothing else.

    python -m bench.echo HOST:PORT PAGE_FILE TWEET_FILE

grpc.aio on uvloop, with the options of Chirp's servers. It reads no request and no metadata; it
answers GetHomeTimeline with the bytes of one file and CreateTweet with those of the other.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, cast

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.server import SERVER_OPTIONS

TIMELINE, TWEET = "chirp.v1.TimelineService", "chirp.v1.TweetService"


async def serve(listen: str, page: bytes, tweet: bytes) -> None:
    """Serves until SIGTERM. Answers health too, for the gateway."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers(
        (_answers(TIMELINE, "GetHomeTimeline", page), _answers(TWEET, "CreateTweet", tweet))
    )
    servicer = cast(Any, health).aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(listen)
    await server.start()
    for name in ("", TIMELINE, TWEET):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


def _answers(service: str, method: str, content: bytes) -> grpc.GenericRpcHandler:
    async def answer(request: bytes, context: Any) -> bytes:
        return content

    return grpc.method_handlers_generic_handler(
        service, {method: grpc.unary_unary_rpc_method_handler(answer)}
    )


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]).read_bytes()))
