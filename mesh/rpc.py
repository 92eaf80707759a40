"""Binds a service of the protos to the object that answers it: authentication, access rule, error
table and byte answers, in one plain coroutine around each method; streams by `streams.py`.

grpc.aio's own interceptors cost an extra task switch each; a closure costs a call.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf import descriptor, message_factory
from google.protobuf.message import Message
from grpc_status import rpc_status

from domain.errors import ChirpError, DeadlineExceeded, ServicesOnly, Unauthenticated
from domain.ids import UserId
from mesh import errors
from mesh.access import KINDS, RULES, Access
from mesh.rates import Admit, Rates
from mesh.streams import Answers, Frames, Gone, OpenStream, Streams, TooSlow
from mesh.tokens import Claims, TokenVerifier

BEARER = "Bearer "
ABORT_S = 0.1
ANONYMOUS = Claims(None, 0, "", 0.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """What a method is told about its caller."""

    claims: Claims
    open_stream: OpenStream | None = None

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
        """The signed-in user of a method whose rule is SIGNED_IN."""
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


def bind(
    service: descriptor.ServiceDescriptor,
    servicer: object | tuple[object, ...],
    verifier: TokenVerifier,
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
    for method in service.methods:
        path = f"/{service.full_name}/{method.name}"
        bound = _method(servicers, method.name)
        if method.server_streaming:
            assert streams is not None, f"{path} is a stream: bind it with the process's Streams"
            kind: Any = grpc.unary_stream_rpc_method_handler
            answer = _streaming(
                path,
                cast(StreamMethod, bound),
                Door(path, verifier, rates),
                streams,
                Frames(method.output_type),
            )
        else:
            kind = grpc.unary_unary_rpc_method_handler
            answer = _answering(path, cast(Method, bound), Door(path, verifier, rates))
        handlers[method.name] = kind(
            answer,
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=_serialise,
        )
    return BoundService(
        service.full_name,
        grpc.method_handlers_generic_handler(service.full_name, handlers),
        streams,
        is_ready,
    )


def authenticate(
    metadata: tuple[tuple[str, str | bytes], ...] | None, rule: Access, verifier: TokenVerifier
) -> Claims:
    """Returns who calls; raises Unauthenticated or ServicesOnly where the rule forbids it."""
    for key, value in metadata or ():
        if key == "authorization":
            text = value if isinstance(value, str) else value.decode("latin-1")
            if not text.startswith(BEARER):
                raise Unauthenticated("the authorization header must be `Bearer <token>`")
            claims = verifier.verify(text[len(BEARER) :])
            if rule is Access.SERVICE and not claims.service:
                raise ServicesOnly("this method is for Chirp's own services")
            if rule is Access.SIGNED_IN and claims.user_id is None:
                raise Unauthenticated("this method needs a user's access token")
            return claims
    if rule is not Access.OPEN:
        raise Unauthenticated("this method needs an access token")
    return ANONYMOUS


class Door:
    """Lets callers of one method in, or not."""

    __slots__ = ("admit", "rule", "verifier")

    def __init__(self, path: str, verifier: TokenVerifier, rates: Rates | None) -> None:
        self.rule = RULES[path]
        self.verifier = verifier
        kind = None if self.rule is Access.SERVICE else KINDS[path]
        self.admit: Admit | None = None
        if rates is not None and kind is not None:
            self.admit = rates.gate(kind)


def _method(servicers: tuple[object, ...], name: str) -> object:
    (method,) = [getattr(each, name) for each in servicers if hasattr(each, name)]
    return method


def _answering(path: str, method: Method, door: Door) -> Any:
    rule, verifier, admit = door.rule, door.verifier, door.admit

    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            claims = authenticate(cast(Any, context.invocation_metadata()), rule, verifier)
            # Session 0: nobody, a service, or what an operator signed with the private key.
            if admit is not None and claims.session_id:
                waiting = admit(cast(UserId, claims.user_id))
                if waiting is not None:
                    await waiting
            return await method(request, Call(claims))
        except Exception as error:  # noqa: BLE001 - the one table of errors takes them all
            known = errors.translate(error, path)
        return await _abort(context, known)

    return answer


def _streaming(
    path: str, method: StreamMethod, door: Door, streams: Streams, frames: Frames
) -> Any:
    rule, verifier, admit = door.rule, door.verifier, door.admit

    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        stream = OpenStream(context, frames)
        try:
            claims = authenticate(cast(Any, context.invocation_metadata()), rule, verifier)
            if admit is not None and claims.session_id:
                waiting = admit(cast(UserId, claims.user_id))
                if waiting is not None:
                    await waiting
            streams.admit(stream, claims)
            await stream.run(method(request, Call(claims, stream)))
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
