"""Binds a service of the protos to the object that answers it: authentication, access rule, error
table and byte answers, in one plain coroutine around each method; streams by `streams.py`.

grpc.aio's own interceptors cost an extra task switch each; a closure costs a call.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf import descriptor, message_factory
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from domain.errors import (
    ChirpError,
    DeadlineExceeded,
    InvalidArgument,
    Unauthenticated,
)
from domain.ids import UserId
from mesh import errors, requests, tls, traces
from mesh.calls import Calls
from mesh.door import Door, Verifier
from mesh.rates import Rates
from mesh.requests import Metadata
from mesh.streams import Answers, Frames, Gone, OpenStream, Streams, TooSlow
from mesh.tokens import Claims
from mesh.work import Running

ABORT_S = 0.1
LATE = "the call took too long"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """What a method is told about its caller."""

    claims: Claims
    open_stream: OpenStream | None = None
    metadata: Metadata = ()
    """The headers of the call, as they came. Anybody may have written them."""

    @property
    def stream(self) -> OpenStream:
        """The stream that a streaming method fills."""
        assert self.open_stream is not None, "only streaming methods have one"
        return self.open_stream

    @property
    def user_id(self) -> UserId | None:
        """The signed-in user, or None where an open method is called without a token."""
        return self.claims.user_id

    @property
    def caller(self) -> UserId:
        """The signed-in user of a method whose rule is SIGNED_IN or OWNER."""
        assert self.claims.user_id is not None, "the access rule lets only users in"
        return self.claims.user_id


Method = Callable[[Any, Call], Awaitable[Message | bytes]]
StreamMethod = Callable[[Any, Call], Answers]


@dataclass(frozen=True, slots=True)
class BoundService:
    """A service ready to be added to a server."""

    full_name: str
    handler: grpc.GenericRpcHandler
    streams: Streams | None = None
    """The process's open streams, where the service has streaming methods."""
    is_ready: Callable[[], bool] | None = None
    """Whether its health is SERVING, asked again and again; None where it always is."""
    verifier: Verifier | None = None
    """By whom its callers are known."""
    calls: Sequence[Calls] = ()
    """What became of the calls of each method."""
    running: Sequence[Running] = ()
    """The calls that it works on, by method."""


def bind(
    service: descriptor.ServiceDescriptor,
    servicer: object | tuple[object, ...],
    verifier: Verifier,
    streams: Streams | None = None,
    is_ready: Callable[[], bool] | None = None,
    rates: Rates | None = None,
) -> BoundService:
    """Binds every method of `service` to the method of the same name of `servicer`, or of the one
    of several that has it.

    A method takes the request and a `Call`, and returns the answer's message, or its serialised
    bytes, which go out as they are. It raises `domain.errors`; anything else becomes INTERNAL.
    A streaming method is an async generator of such answers (`streams.py`) and needs `streams`,
    of which a process has one. Raises TypeError where its answer is not a stream's. `is_ready` is
    for a service that not every replica serves at any time: callers find one that does.
    `rates` limits how often a signed-in user calls, by the method's kind in `mesh/access.py`.
    """
    servicers = cast("tuple[object, ...]", servicer if isinstance(servicer, tuple) else (servicer,))
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    calls: list[Calls] = []
    methods: list[Running] = []
    for method in service.methods:
        path = f"/{service.full_name}/{method.name}"
        bound = _method(servicers, method.name)
        if traces.enabled() and not method.server_streaming:
            bound = traces.served(path, cast(Method, bound))
        methods.append(running := Running(path))
        if method.server_streaming:
            assert streams is not None, f"{path} is a stream: bind it with the process's Streams"
            kind: Any = grpc.unary_stream_rpc_method_handler
            answer = _streaming(
                path,
                cast(StreamMethod, bound),
                Door(path, verifier, rates),
                _parser(method.input_type),
                streams,
                Frames(method.output_type),
                running,
            )
        else:
            kind = grpc.unary_unary_rpc_method_handler
            door = Door(path, verifier, rates)
            parse = _parser(method.input_type)
            answer = _answering(path, cast(Method, bound), door, parse, running)
        calls.append(Calls(service.name, method.name, streams=method.server_streaming))
        handlers[method.name] = kind(
            calls[-1].counting(answer),
            request_deserializer=None,  # gRPC would answer INTERNAL to what is no message
            response_serializer=_serialise,
        )
    return BoundService(
        service.full_name,
        grpc.method_handlers_generic_handler(service.full_name, handlers),
        streams,
        is_ready,
        verifier,
        calls,
        methods,
    )


async def refuse_peer(context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """Ends the call of somebody whose certificate is none of Chirp's."""
    return await _abort(context, Unauthenticated(tls.REFUSED))


def _method(servicers: tuple[object, ...], name: str) -> object:
    (method,) = [getattr(each, name) for each in servicers if hasattr(each, name)]
    return method


def _parser(kind: descriptor.Descriptor) -> Callable[[bytes], Message]:
    parse = message_factory.GetMessageClass(kind).FromString

    def parsed(content: bytes) -> Message:
        try:
            return parse(content)
        except DecodeError:
            raise InvalidArgument.of("request", f"must be a {kind.full_name}") from None

    return parsed


def _answering(
    path: str, method: Method, door: Door, parse: Callable[[bytes], Message], running: Running
) -> Any:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        task = running.begin(context)
        try:
            metadata = cast(Metadata, context.invocation_metadata() or ())
            requests.begin(metadata)
            claims = await door.enter(metadata)
            return await method(parse(request), Call(claims, None, metadata))
        except asyncio.CancelledError:
            if not running.was_late(task):
                raise  # there is nobody to tell
            known = DeadlineExceeded(LATE)
        except Exception as error:  # noqa: BLE001 - the one table of errors takes them all
            known = errors.translate(error, path)
        finally:
            running.end(task)
        return await _abort(context, known)

    return answer


def _streaming(
    path: str,
    method: StreamMethod,
    door: Door,
    parse: Callable[[bytes], Message],
    streams: Streams,
    frames: Frames,
    running: Running,
) -> Any:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        running.attend(context)
        stream = OpenStream(context, frames)
        try:
            metadata = cast(Metadata, context.invocation_metadata() or ())
            requests.begin(metadata)
            claims = await door.enter(metadata)
            # At once: a session that ends from here on ends the stream, too.
            streams.admit(stream, claims)
            await stream.run(method(parse(request), Call(claims, stream, metadata)))
            return
        except Gone:
            return
        except TooSlow as error:
            # The status is sent behind what the reader does not take: it is not waited for.
            with suppress(TimeoutError):
                async with asyncio.timeout(ABORT_S):
                    await _abort(context, DeadlineExceeded(str(error)))
            return
        except Exception as error:  # noqa: BLE001 - the one table of errors takes them all
            known = errors.translate(error, path)
        finally:
            streams.dismiss(stream)
        if not stream.begun:
            await _abort(context, known)
        # A gateway cannot signal an error in the middle of a stream: the last message says it.
        with suppress(Gone):
            await stream.finish(known.reason)

    return answer


async def _abort(context: grpc.aio.ServicerContext[Any, Any], known: ChirpError) -> Any:
    status = cast(Any, rpc_status.to_status(errors.to_status(known)))
    # With the status, because abort() drops what was set before it.
    trailing = (*status.trailing_metadata, *errors.to_headers(known))
    return await context.abort(status.code, status.details, trailing)


def _serialise(answer: Message | bytes) -> bytes:
    return answer if type(answer) is bytes else cast(Message, answer).SerializeToString()
