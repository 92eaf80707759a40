"""Accounts for tests: stubs of the graph server, and people to be."""

import functools
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import argon2
import grpc
from chirp.v1 import events_pb2, graph_pb2, graph_pb2_grpc, user_pb2, user_pb2_grpc

from domain.ids import UserId
from mesh.clients import Metadata
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity, TokenSigner
from storage import database
from storage.database import Pool
from storage.purges import Kind

PASSWORD = "correct horse battery"

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who is signed in."""

    id: UserId
    username: str
    token: str

    @property
    def metadata(self) -> Metadata:
        """What this person's calls carry."""
        return bearer(self.token)


@dataclass(frozen=True, slots=True)
class Accounts:
    """A running graph server."""

    settings: Settings
    pool: Pool
    users: "user_pb2_grpc.UserServiceAsyncStub"
    directory: "user_pb2_grpc.UserDirectoryServiceAsyncStub"
    graph: "graph_pb2_grpc.GraphServiceAsyncStub"
    block_directory: "graph_pb2_grpc.BlockDirectoryServiceAsyncStub"
    signer: TokenSigner

    async def sign_up(self, username: str = "") -> Account:
        """Makes an account as everybody does, with PASSWORD."""
        name = username or f"user_{next(_numbers)}"
        answer = await self.users.CreateUser(
            user_pb2.CreateUserRequest(username=name, password=PASSWORD)
        )
        return Account(UserId(answer.user.id), name, answer.access_token)

    async def insert(self, count: int = 1) -> list[Account]:
        """Makes accounts that have no password, which costs nothing."""
        made: list[Account] = []
        async with self.pool.connection() as connection:
            for _ in range(count):
                number = next(_numbers)
                user_id, name = UserId(1_000_000 + number), f"made_{number}"
                await connection.execute(
                    "INSERT INTO users (id, username, display_name) VALUES (%s, %s, %s)",
                    (user_id, name, name),
                )
                await connection.execute(
                    "INSERT INTO sessions (id, user_id, expires_at)"
                    " VALUES (%s, %s, now() + interval '1 hour')",
                    (number, user_id),
                )
                token = self.signer.sign_user(user_id, number, lifetime_s=600, now=time.time())
                made.append(Account(user_id, name, token))
        return made

    async def give_password(self, account: Account) -> None:
        """Gives PASSWORD to an account that was made without one."""
        async with self.pool.connection() as connection:
            await connection.execute(
                "UPDATE users SET password_hash = %s WHERE id = %s AND password_hash IS NULL"
                " AND erased_at IS NULL",
                (_hash(), account.id),
            )

    async def remove(self, account: Account) -> Account:
        """Deletes an account's rows; returns it with a token that no session ends, so that what is
        said of the account comes from whoever looks for it."""
        async with self.pool.connection() as connection:
            await connection.execute("DELETE FROM sessions WHERE user_id = %s", (account.id,))
            await connection.execute("DELETE FROM users WHERE id = %s", (account.id,))
        token = self.signer.sign_user(account.id, 0, lifetime_s=600, now=time.time())
        return Account(account.id, account.username, token)

    async def follow(self, follower: Account, followee: Account) -> user_pb2.User:
        """Follows; answers the followee as the follower sees it. So do those below."""
        return await self.graph.FollowUser(
            graph_pb2.FollowUserRequest(id=followee.id), metadata=follower.metadata
        )

    async def unfollow(self, follower: Account, followee: Account) -> user_pb2.User:
        """Unfollows."""
        return await self.graph.UnfollowUser(
            graph_pb2.UnfollowUserRequest(id=followee.id), metadata=follower.metadata
        )

    async def block(self, blocker: Account, blocked: Account) -> user_pb2.User:
        """Blocks."""
        return await self.graph.BlockUser(
            graph_pb2.BlockUserRequest(id=blocked.id), metadata=blocker.metadata
        )

    async def unblock(self, blocker: Account, blocked: Account) -> user_pb2.User:
        """Unblocks."""
        return await self.graph.UnblockUser(
            graph_pb2.UnblockUserRequest(id=blocked.id), metadata=blocker.metadata
        )

    async def mute(self, muter: Account, muted: Account) -> user_pb2.User:
        """Mutes."""
        return await self.graph.MuteUser(
            graph_pb2.MuteUserRequest(id=muted.id), metadata=muter.metadata
        )

    async def unmute(self, muter: Account, muted: Account) -> user_pb2.User:
        """Unmutes."""
        return await self.graph.UnmuteUser(
            graph_pb2.UnmuteUserRequest(id=muted.id), metadata=muter.metadata
        )

    async def seen(self, account: Account, viewer: Account) -> user_pb2.User:
        """Returns an account as a viewer sees it."""
        return await self.users.GetUser(
            user_pb2.GetUserRequest(id=account.id), metadata=viewer.metadata
        )

    async def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Returns what the database answers."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement.encode(), values or None)
            return await cursor.fetchall()

    async def events(self) -> list[tuple[int, events_pb2.Event]]:
        """Returns partition key and event of everything in the outbox, in its order."""
        rows = await self.rows("SELECT partition_key, payload FROM outbox ORDER BY id")
        return [(int(row[0]), events_pb2.Event.FromString(bytes(row[1]))) for row in rows]

    async def purged_viewers(self) -> list[int]:
        """Returns whose timelines the servers' caches were told to forget, in order."""
        rows = await self.rows(
            "SELECT subject_id FROM purges WHERE kind = %s ORDER BY id", int(Kind.VIEWER)
        )
        return [int(row[0]) for row in rows]

    async def contents(self) -> list[tuple[Any, ...]]:
        """Returns everything that a call could have half done."""
        rows: list[tuple[Any, ...]] = []
        for statement in (
            "SELECT * FROM users ORDER BY id",
            "SELECT * FROM follows ORDER BY id",
            "SELECT * FROM blocks ORDER BY blocker_id, blocked_id",
            "SELECT * FROM mutes ORDER BY muter_id, muted_id",
            "SELECT * FROM tier_changes ORDER BY id",
            "SELECT * FROM sessions ORDER BY id",
            "SELECT * FROM outbox ORDER BY id",
            "SELECT * FROM purges ORDER BY id",
        ):
            rows += await self.rows(statement)
        return rows

    @property
    def service_metadata(self) -> Metadata:
        """What the calls of tweet_server carry, which may ask the directories."""
        return self.metadata_of("tweet_server")

    def metadata_of(self, service: str) -> Metadata:
        """Returns what the calls of one of Chirp's own services carry."""
        return ServiceIdentity(self.settings, service).metadata


@asynccontextmanager
async def open_accounts(settings: Settings, channel: grpc.aio.Channel) -> AsyncGenerator[Accounts]:
    """Opens the stubs of a graph server."""
    async with database.open_pool(settings, size_max=2) as pool:
        yield Accounts(
            settings,
            pool,
            user_pb2_grpc.UserServiceStub(channel),
            user_pb2_grpc.UserDirectoryServiceStub(channel),
            graph_pb2_grpc.GraphServiceStub(channel),
            graph_pb2_grpc.BlockDirectoryServiceStub(channel),
            TokenSigner(settings),
        )


@functools.cache
def _hash() -> str:
    return argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


def bearer(token: str) -> Metadata:
    """Returns the metadata of a call with a token."""
    return (("authorization", f"Bearer {token}"),)
