"""Password hashes: argon2id off the event loop, so many at a time and no more.

The parameters are the least that OWASP's Password Storage Cheat Sheet names for argon2id: 19 MiB,
2 passes, 1 lane; about 25 ms of one core. They stand in each hash: raising them breaks no old one.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from domain.errors import Overloaded
from mesh.settings import Settings

TIME_COST = 2
MEMORY_COST_KIB = 19_456
PARALLELISM = 1
PENDING_MAX = 64  # 64 hashes of 25 ms on 2 threads: nobody waits for longer than a second

T = TypeVar("T")


class Passwords:
    """Hashes and verifies passwords. Made by `open_passwords`."""

    def __init__(self, hasher: argon2.PasswordHasher, executor: ThreadPoolExecutor) -> None:
        self._hasher = hasher
        self._executor = executor
        self._pending = 0
        self._nobodys_hash = hasher.hash(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """Returns the hash to store. Raises Overloaded where too many wait."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one of the hash `stored`; never without one.

        Takes as long where there is no hash, so that the time does not tell who has an account.
        Raises Overloaded where too many wait.
        """
        matches = await self._run(lambda: self._matches(stored or self._nobodys_hash, password))
        return matches and stored is not None

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._pending >= PENDING_MAX:
            raise Overloaded("too many are signing in at the moment; try again")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._pending -= 1


@asynccontextmanager
async def open_passwords(settings: Settings) -> AsyncGenerator[Passwords]:
    """Opens the threads that hash."""
    hasher = argon2.PasswordHasher(
        time_cost=TIME_COST, memory_cost=MEMORY_COST_KIB, parallelism=PARALLELISM
    )
    with ThreadPoolExecutor(settings.password_hashes_max, "passwords") as executor:
        yield Passwords(hasher, executor)
