import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import psycopg
import pytest
import pytest_asyncio

from domain.errors import Unavailable
from domain.ids import EPOCH_MS, SEQUENCE_BITS, WORKER_BITS, minted_at_ms
from mesh.settings import Settings
from storage import database, snowflakes
from storage.database import Pool
from storage.snowflakes import AHEAD_MS, LEASE_MARGIN_S, LEASE_S

START_MS = EPOCH_MS + 1_000_000_000


@dataclass
class Clock:
    wall: int = START_MS
    elapsed: float = 0.0

    def wall_ms(self) -> int:
        return self.wall

    def elapsed_s(self) -> float:
        return self.elapsed


@pytest_asyncio.fixture
async def pool(settings: Settings) -> AsyncGenerator[Pool]:
    async with database.open_pool(settings) as opened:
        yield opened


def lease(pool: Pool, clock: Clock):
    return snowflakes.lease(pool, wall_ms=clock.wall_ms, elapsed_s=clock.elapsed_s)


def worker_of(snowflake: int) -> int:
    return snowflake >> SEQUENCE_BITS & ((1 << WORKER_BITS) - 1)


async def workers(pool: Pool) -> dict[int, tuple[str, int]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT worker, holder, high_water_ms FROM snowflake_workers WHERE high_water_ms > 0"
        )
        return {row[0]: (row[1], row[2]) for row in await cursor.fetchall()}


async def test_holders_at_the_same_time_have_different_numbers(pool: Pool) -> None:
    clock = Clock()
    async with AsyncExitStack() as stack:
        minters = await asyncio.gather(
            *(stack.enter_async_context(lease(pool, clock)) for _ in range(6))
        )

        minted = [minter.mint() for minter in minters for _ in range(100)]

        assert len(set(minted)) == 600
        assert len({worker_of(each) for each in minted}) == 6
        # Each begins above all that were there when it came, if only by a millisecond.
        assert max(minted_at_ms(each) for each in minted) < START_MS + 6


async def test_leaving_gives_the_number_back_with_its_high_water(pool: Pool) -> None:
    clock = Clock()
    async with lease(pool, clock) as minter:
        clock.wall += 500
        minted = minter.mint()

    ((holder, high_water_ms),) = (await workers(pool)).values()
    assert (holder, high_water_ms) == ("", minted_at_ms(minted))


async def test_ids_go_up_across_a_restart_with_the_clock_stepped_back(pool: Pool) -> None:
    clock = Clock()
    async with lease(pool, clock) as minter:
        clock.wall += 5_000
        earlier = [minter.mint() for _ in range(10)]

    clock.wall -= 3_600_000
    async with lease(pool, clock) as minter:
        later = [minter.mint() for _ in range(10)]

    assert max(earlier) < min(later)
    assert worker_of(later[0]) != worker_of(earlier[0])


async def test_same_number_repeats_nothing_after_a_crash_with_the_clock_stepped_back(
    pool: Pool,
) -> None:
    clock = Clock()
    await _keep_only_one_number(pool)
    crashed: set[int] = set()
    # Everything the crashed holder could mint: as far ahead as it is ever let.
    async with lease(pool, clock) as minter:
        clock.wall += 10 * AHEAD_MS
        crashed = {minter.mint() for _ in range(4_096)}
        recorded = await workers(pool)
        await _expire(pool)
        clock.wall = START_MS - 3_600_000

        async with lease(pool, clock) as successor:
            minted = [successor.mint() for _ in range(10)]

    assert recorded.keys() == (await workers(pool)).keys()
    assert max(crashed) < min(minted)


async def test_clock_that_leaps_forward_is_followed_only_as_far_as_recorded(pool: Pool) -> None:
    clock = Clock()
    async with lease(pool, clock) as minter:
        clock.wall += 86_400_000

        assert minted_at_ms(minter.mint()) == START_MS + AHEAD_MS
        await minter._renew(pool)  # pyright: ignore[reportPrivateUsage]
        assert minted_at_ms(minter.mint()) == clock.wall


async def test_nothing_is_minted_once_the_lease_may_have_ended(pool: Pool) -> None:
    clock = Clock()
    async with lease(pool, clock) as minter:
        clock.elapsed = LEASE_S - LEASE_MARGIN_S - 0.001
        before = minter.mint()
        clock.elapsed += 0.001

        with pytest.raises(Unavailable):
            minter.mint()

        await minter._renew(pool)  # pyright: ignore[reportPrivateUsage]
        assert minter.mint() > before


async def test_more_ids_than_the_recorded_time_holds_are_refused_not_repeated(
    pool: Pool,
) -> None:
    clock = Clock()
    async with lease(pool, clock) as minter:
        clock.wall += AHEAD_MS
        minted = [minter.mint() for _ in range(4_096)]

        with pytest.raises(Unavailable):
            minter.mint()

    assert len(set(minted)) == 4_096


async def test_holder_whose_number_was_taken_goes_on_under_another(pool: Pool) -> None:
    clock = Clock()
    async with lease(pool, clock) as minter:
        before = minter.mint()
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE snowflake_workers SET holder = 'other',"
                " leased_until = now() + interval '1 minute' WHERE worker = %s",
                (worker_of(before),),
            )

        await minter._renew(pool)  # pyright: ignore[reportPrivateUsage]

        after = minter.mint()
        assert after > before
        assert worker_of(after) != worker_of(before)
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT holder FROM snowflake_workers WHERE worker = %s", (worker_of(before),)
        )
        assert await cursor.fetchone() == ("other",)


async def test_start_is_refused_where_all_numbers_are_taken(pool: Pool) -> None:
    await _keep_only_one_number(pool)
    async with lease(pool, Clock()):
        with pytest.raises(Unavailable):
            async with lease(pool, Clock()):
                pass


async def test_lease_is_renewed_in_the_background_and_survives_a_lost_connection(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snowflakes, "RENEW_S", 0.02)
    clock = Clock()
    async with database.open_pool(settings, size_max=1) as other, lease(other, clock):
        async with await psycopg.AsyncConnection.connect(
            settings.database_url, autocommit=True
        ) as killer:
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        clock.wall += 1_000

        async with asyncio.timeout(10):
            while next(iter((await _workers_retrying(pool)).values()))[1] != clock.wall:
                await asyncio.sleep(0.01)


async def _workers_retrying(pool: Pool) -> dict[int, tuple[str, int]]:
    while True:
        try:
            return await workers(pool)
        except psycopg.OperationalError:
            await asyncio.sleep(0.01)


async def _keep_only_one_number(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("DELETE FROM snowflake_workers WHERE worker > 0")


async def _expire(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE snowflake_workers SET leased_until = now() - interval '1 second'"
            " WHERE leased_until > now()"
        )
