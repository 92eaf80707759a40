"""The echo: what Python's gRPC server can do when it does nothing else.

    python -m bench.echo [--verify] HOST:PORT SERVICE/METHOD=FILE ...

grpc.aio on uvloop, with the options of Chirp's servers. It answers each method with the bytes of a
file. The bare echo reads no request and no metadata. With --verify, each call goes through what
every call of Chirp goes through: the request is read, the token verified, the access rule applied
(mesh/rpc.py).
"""

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import grpc
import uvloop
from chirp.v1 import timeline_pb2, tweet_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh import rpc
from mesh.server import SERVER_OPTIONS
from mesh.settings import load
from mesh.streams import Streams
from mesh.tokens import TokenVerifier


async def serve(
    listen: str, answers: Mapping[tuple[str, str], bytes], verifier: TokenVerifier | None
) -> None:
    """Serves until SIGTERM, by service and method. Answers health too, for the gateway."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handlers: list[grpc.GenericRpcHandler] = []
    for (service, method), content in answers.items():
        if verifier is None:
            handlers.append(_answers(service, method, content))
        else:
            bound = rpc.bind(_service(service), _Echo(service, content), verifier, Streams(load()))
            handlers.append(bound.handler)
    server.add_generic_rpc_handlers(handlers)
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


class _Echo:
    """Answers every method of a service with the same bytes."""

    def __init__(self, service: str, content: bytes) -> None:
        async def answer(request: Message, call: rpc.Call) -> bytes:
            return content

        for method in _service(service).methods:
            setattr(self, method.name, answer)


def _service(name: str) -> ServiceDescriptor:
    known = [*timeline_pb2.DESCRIPTOR.services_by_name.values()]
    known += tweet_pb2.DESCRIPTOR.services_by_name.values()
    (service,) = [each for each in known if each.full_name == name]
    return service


def _parsed(argument: str) -> tuple[tuple[str, str], bytes]:
    path, _, file = argument.partition("=")
    service, _, method = path.partition("/")
    return (service, method), Path(file).read_bytes()


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--verify"]
    verifier = TokenVerifier(load()) if "--verify" in sys.argv else None
    uvloop.run(serve(arguments[0], dict(map(_parsed, arguments[1:])), verifier))
