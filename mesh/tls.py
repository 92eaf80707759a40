"""Mutual TLS between Chirp's processes, where CHIRP_TLS is 1: who they are to each other.

Each of Chirp's services, the command line and the gateway has a folder of its own in CHIRP_CERTS,
and reads nothing else of it:

    <name>/identity.pem    its private key, and its certificate
    <name>/authority.pem   whose certificates it believes

A certificate bears one DNS name, `<name>.chirp.internal`. A client wants that of the service that
it means to call. A server lets in the names of NAMES alone, and a service's token only beside that
service's certificate. Files are replaced whole and followed while processes run: a server shows
its new certificate from the next connection on, a client dials again.

`grpc.aio` takes gRPC's dynamic credentials. They are asked in gRPC's own threads.
"""

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import grpc

from mesh.access import COMMAND_LINE, SERVICES
from mesh.files import Watch
from mesh.settings import Settings

GATEWAY = "gateway"
NAMES = (*SERVICES, GATEWAY)
"""Everybody who has a certificate."""

DOMAIN = "chirp.internal"
IDENTITY_FILE, AUTHORITY_FILE = "identity.pem", "authority.pem"

# Certificates are looked at when somebody connects: nobody stays connected for ever on an old one.
CONNECTION_AGE_MAX_MS = 3_600_000
SERVER_OPTIONS = (("grpc.max_connection_age_ms", CONNECTION_AGE_MAX_MS),)

PEER: ContextVar[str | None] = ContextVar("PEER", default=None)
"""Whose certificate the call came with; None without TLS."""

REFUSED = "your certificate is not one of Chirp's services or gateway"

log = logging.getLogger(__name__)


def dns_name(name: str) -> str:
    """Returns the DNS name in somebody's certificate."""
    return f"{name.replace('_', '-')}.{DOMAIN}"


_NAMED = {dns_name(name): name for name in NAMES}


def identity_file(settings: Settings, name: str) -> Path:
    """Returns the file of somebody's private key and certificate."""
    return settings.certs / name / IDENTITY_FILE


def authority_file(settings: Settings, name: str) -> Path:
    """Returns the file of the authorities that somebody believes."""
    return settings.certs / name / AUTHORITY_FILE


class Files:
    """The two files of one of NAMES, followed."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._paths = identity_file(settings, name), authority_file(settings, name)
        self._watch = Watch(*self._paths)
        self._watch.changed(at_once=True)

    def changed(self) -> bool:
        """Whether they were replaced since it last said so; looks every LOOK_S at most."""
        return self._watch.changed()

    def read(self) -> tuple[bytes, bytes]:
        """Returns key and certificate, and the authorities. Raises OSError."""
        try:
            identity, authority = (path.read_bytes() for path in self._paths)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error.filename} is not there: run `chirp certs`") from None
        return identity, authority


def server_credentials(settings: Settings, name: str) -> grpc.ServerCredentials:
    """Returns what a server shows and demands, always as its files say now. Raises OSError where
    they are not there."""
    files = Files(settings, name)

    def configured() -> Any:
        identity, authority = files.read()
        return grpc.ssl_server_certificate_configuration([(identity, identity)], authority)

    def fetch() -> Any:
        try:
            return configured() if files.changed() else None
        except OSError as error:
            # Those that it has may still be good, and no reason to refuse everybody.
            log.error("cannot read the certificates: %s", type(error).__name__)
            return None

    return grpc.dynamic_ssl_server_credentials(
        configured(), fetch, require_client_authentication=True
    )


def client_credentials(files: Files) -> grpc.ChannelCredentials:
    """Returns what a client shows and believes. Raises OSError where its files are not there."""
    identity, authority = files.read()
    return grpc.ssl_channel_credentials(authority, identity, identity)


def named(server: str) -> list[tuple[str, str | int]]:
    """Returns the options of a channel to one of SERVICES: whatever the address, it wants that
    service's name in the certificate."""
    return [("grpc.ssl_target_name_override", dns_name(server))]


def secure_channel(
    settings: Settings, target: str, server: str, *, as_name: str = COMMAND_LINE
) -> grpc.aio.Channel:
    """Opens a bare channel to one server or worker, for a question or two."""
    if not settings.tls:
        return grpc.aio.insecure_channel(target)
    credentials = client_credentials(Files(settings, as_name))
    return grpc.aio.secure_channel(target, credentials, options=named(server))


class PeerGuard(grpc.aio.ServerInterceptor):
    """Answers nothing, neither health nor reflection, to a certificate whose name is not of NAMES;
    tells the rest of the process, in PEER, whose it is."""

    def __init__(self, refuse: Callable[[Any], Awaitable[Any]]) -> None:
        self._refuse = refuse
        self._guarded: dict[str, Any] = {}  # by method; what no handler knows is not kept

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Returns the method's handler, behind the question who calls."""
        path = handler_call_details.method
        found = self._guarded.get(path)
        if found is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            found = self._guarded[path] = self._guard(handler)
        return found

    def _guard(self, handler: Any) -> Any:
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                is_generator = inspect.isasyncgenfunction(behaviour)
                guard = self._generator if is_generator else self._coroutine
                return handler._replace(**{kind: guard(behaviour)})
        raise TypeError("a handler without a method")

    def _coroutine(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def guarded(request: Any, context: Any) -> Any:
            name = peer_name(context)
            if name is None:
                return await self._refuse(context)
            PEER.set(name)
            return await behaviour(request, context)

        return guarded

    def _generator(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def guarded(request: Any, context: Any) -> AsyncGenerator[Any]:
            if peer_name(context) is None:
                await self._refuse(context)
            async for answer in behaviour(request, context):
                yield answer

        return guarded


def peer_name(context: Any) -> str | None:
    """Returns which of NAMES the caller's certificate bears; None where it is none of them."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    # Exactly one: a certificate of two names would be two services at once.
    return _NAMED.get(names[0].decode("latin-1")) if len(names) == 1 else None
