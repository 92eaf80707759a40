"""The bare echo: what Python's gRPC server can do when it does nothing else.

    python -m bench.echo HOST:PORT SERVICE/METHOD=FILE ...

grpc.aio on uvloop, with the options of Chirp's servers. It reads no request and no metadata; it
answers each method with the bytes of a file.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.server import SERVER_OPTIONS


async def serve(listen: str, answers: Mapping[tuple[str, str], bytes]) -> None:
    """Serves until SIGTERM, by service and method. Answers health too, for the gateway."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers(
        [_answers(service, method, content) for (service, method), content in answers.items()]
    )
    servicer = cast(Any, health).aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(listen)
    await server.start()
    for name in ("", *(service for service, _ in answers)):
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


def _parsed(argument: str) -> tuple[tuple[str, str], bytes]:
    path, _, file = argument.partition("=")
    service, _, method = path.partition("/")
    return (service, method), Path(file).read_bytes()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], dict(map(_parsed, sys.argv[2:]))))
