import asyncio

import pytest

from servers.home_turns import AT_ONCE, PART, REST_S, Turns

MANY = AT_ONCE * PART * 2


def asleep(turns: Turns, count: int) -> list[asyncio.Future[None]]:
    sleepers = [asyncio.get_running_loop().create_future() for _ in range(count)]
    for sleeper in sleepers:
        turns.wake(sleeper)
    return sleepers


def awake(sleepers: list[asyncio.Future[None]]) -> int:
    return sum(sleeper.done() for sleeper in sleepers)


async def test_the_first_wake_at_once():
    sleepers = asleep(Turns(), AT_ONCE)

    await asyncio.sleep(0)

    assert awake(sleepers) == AT_ONCE


@pytest.mark.parametrize("count", [AT_ONCE + 1, AT_ONCE * 9, MANY])
async def test_others_have_their_turn_after_a_few(count: int):
    sleepers = asleep(Turns(), count)
    at_once = max(AT_ONCE, count // PART)
    before, turns = 0, 0
    while before < count:
        await asyncio.sleep(REST_S / 4)
        now = awake(sleepers)
        assert now - before <= at_once
        turns += now > before
        before = now

    assert turns <= -(-count // at_once)


async def test_a_turn_follows_another_after_a_rest():
    turns = Turns()
    asleep(turns, 1)
    await asyncio.sleep(0)

    (sleeper,) = asleep(turns, 1)
    await asyncio.sleep(0)

    assert not sleeper.done()
    await asyncio.wait_for(sleeper, 5)


async def test_who_was_cancelled_takes_no_turn():
    turns = Turns()
    cancelled = [asyncio.get_running_loop().create_future() for _ in range(AT_ONCE)]
    for sleeper in cancelled:
        turns.wake(sleeper)
        sleeper.cancel()
    (last,) = asleep(turns, 1)

    await asyncio.sleep(0)

    assert last.done()
