import asyncio
from collections.abc import Callable

import pytest

from servers.home_turns import AT_ONCE, PART, REST_S, Turns

MANY = AT_ONCE * PART * 2
Rest = tuple[float, Callable[[], None]]
"""How long, and what follows."""


@pytest.fixture
async def rests(monkeypatch: pytest.MonkeyPatch) -> list[Rest]:
    """The rests that are taken: each is over when the test says so, not when the clock does."""
    taken: list[Rest] = []
    loop = asyncio.get_running_loop()

    def call_later(delay_s: float, follows: Callable[[], None]) -> asyncio.Handle:
        taken.append((delay_s, follows))
        return asyncio.Handle(follows, (), loop)

    monkeypatch.setattr(loop, "call_later", call_later)
    return taken


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
async def test_others_have_their_turn_after_a_few(count: int, rests: list[Rest]):
    sleepers = asleep(Turns(), count)
    at_once = max(AT_ONCE, count // PART)
    before, turns = 0, 0
    await asyncio.sleep(0)
    while (now := awake(sleepers)) < count:
        assert now - before <= at_once
        before, turns = now, turns + 1
        _, take_turn = rests.pop()
        take_turn()
    assert now - before <= at_once
    turns += 1

    assert turns <= -(-count // at_once)


async def test_a_turn_follows_another_after_a_rest(rests: list[Rest]):
    turns = Turns()
    asleep(turns, 1)
    await asyncio.sleep(0)

    (sleeper,) = asleep(turns, 1)
    await asyncio.sleep(0)

    assert not sleeper.done()
    ((rest_s, take_turn),) = rests
    assert rest_s == REST_S
    take_turn()
    assert sleeper.done()


async def test_who_was_cancelled_takes_no_turn():
    turns = Turns()
    cancelled = [asyncio.get_running_loop().create_future() for _ in range(AT_ONCE)]
    for sleeper in cancelled:
        turns.wake(sleeper)
        sleeper.cancel()
    (last,) = asleep(turns, 1)

    await asyncio.sleep(0)

    assert last.done()
