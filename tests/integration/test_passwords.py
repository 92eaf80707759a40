import asyncio
import time

import pytest

from domain.errors import Overloaded
from mesh.settings import Settings
from servers.passwords import PENDING_MAX, open_passwords


async def test_only_the_right_password_matches() -> None:
    async with open_passwords(Settings()) as passwords:
        stored = await passwords.hash("correct horse")

        assert await passwords.verify(stored, "correct horse")
        assert not await passwords.verify(stored, "correct Horse")
        assert not await passwords.verify(None, "correct horse")
        assert not await passwords.verify("not a hash", "correct horse")


async def test_missing_hash_costs_as_much_as_a_wrong_password() -> None:
    async with open_passwords(Settings()) as passwords:
        stored = await passwords.hash("correct horse")

        async def cost(known: str | None) -> float:
            started = time.process_time()
            for _ in range(5):
                assert not await passwords.verify(known, "wrong horse")
            return time.process_time() - started

        wrong, missing = await cost(stored), await cost(None)

        assert 0.5 < missing / wrong < 2


async def test_too_many_at_once_are_refused_and_the_rest_answered() -> None:
    async with open_passwords(Settings()) as passwords:
        calls = [asyncio.create_task(passwords.verify(None, "x")) for _ in range(PENDING_MAX)]
        await asyncio.sleep(0)

        with pytest.raises(Overloaded):
            await passwords.verify(None, "x")

        assert await asyncio.gather(*calls) == [False] * PENDING_MAX
        assert not await passwords.verify(None, "x")
