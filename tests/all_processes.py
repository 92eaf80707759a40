"""Every server and worker of Chirp in one process, behind real gRPC, as `chirp up` runs them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import grpc
from google.protobuf import descriptor, descriptor_pool, message_factory

from mesh.settings import Settings
from ops import embedded, probes
from ops.processes import KINDS, ProcessKind
from tests.integration.accounts import Account, Accounts, open_accounts
from tests.integration.conftest import serving_process

START_S = 20.0


@dataclass(frozen=True, slots=True)
class Chirp:
    """The whole."""

    settings: Settings
    addresses: dict[str, str]
    """host:port by process."""
    metrics: dict[str, str]
    """Where they tell their metrics, likewise."""
    channels: dict[str, grpc.aio.Channel]
    accounts: Accounts

    def call(self, path: str, process: str) -> Callable[..., Any]:
        """Returns what calls an RPC of a process by its path, unary or a stream of answers."""
        method = method_of(path)
        channel: Any = self.channels[process]
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        return kind(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )

    async def sign_in(self, account: Account) -> Account:
        """Returns an account with another session, which stands in the database."""
        session_id = int(time.time_ns())
        async with self.accounts.pool.connection() as connection:
            await connection.execute(
                "INSERT INTO sessions (id, user_id, expires_at)"
                " VALUES (%s, %s, now() + interval '1 hour')",
                (session_id, account.id),
            )
        token = self.accounts.signer.sign_user(
            account.id, session_id, lifetime_s=600, now=time.time()
        )
        return Account(account.id, account.username, token)


def method_of(path: str) -> descriptor.MethodDescriptor:
    """Returns what the protos say of an RPC."""
    service, name = path.removeprefix("/").split("/")
    pool: Any = descriptor_pool.Default()
    return pool.FindServiceByName(service).methods_by_name[name]


@asynccontextmanager
async def open_all(
    settings: Settings, kinds: Sequence[ProcessKind] = KINDS
) -> AsyncGenerator[Chirp]:
    """Opens these processes; returns when all are healthy."""
    ports = {kind.name: embedded.free_port() for kind in kinds}
    targets = {
        kind.target.removeprefix("CHIRP_").lower(): f"dns:///127.0.0.1:{ports[kind.name]}"
        for kind in kinds
        if kind.target
    }
    settings = settings.model_copy(update={**targets, "trend_poll_ms": 5})
    async with AsyncExitStack() as stack:
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        metrics = {name: f"127.0.0.1:{embedded.free_port()}" for name in ports}
        for kind in kinds:
            opener = import_module(kind.module).open_process
            listening = settings.model_copy(
                update={"listen": addresses[kind.name], "metrics_listen": metrics[kind.name]}
            )
            await stack.enter_async_context(serving_process(listening, opener))
        async with asyncio.timeout(START_S):
            for kind in kinds:
                while not await probes.grpc_serving(addresses[kind.name], kind.services):
                    await asyncio.sleep(0.02)
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(address))
            for name, address in addresses.items()
        }
        accounts = await stack.enter_async_context(
            open_accounts(settings, channels["graph_server"])
        )
        yield Chirp(settings, addresses, metrics, channels, accounts)
