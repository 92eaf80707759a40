import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ids import EPOCH_MS, MAX_ID, WORKER_COUNT, SnowflakeGenerator, minted_at_ms

NOW_MS = EPOCH_MS + 1_000_000


@given(st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=200))
def test_ids_grow_whatever_the_clock_does(steps: list[int]) -> None:
    generator, now_ms, minted = SnowflakeGenerator(7), NOW_MS, [0]

    for step in steps:
        now_ms += step
        minted.append(generator.mint(now_ms))

    assert all(older < newer for older, newer in itertools.pairwise(minted))
    assert minted[-1] <= MAX_ID


def test_more_ids_than_a_millisecond_holds_borrow_from_the_next() -> None:
    generator = SnowflakeGenerator(0)

    minted = [generator.mint(NOW_MS) for _ in range(4_097)]

    assert len(set(minted)) == 4_097
    assert minted == sorted(minted)
    assert [minted_at_ms(each) for each in (minted[4_095], minted[4_096])] == [NOW_MS, NOW_MS + 1]


def test_generators_with_different_numbers_share_no_id() -> None:
    minted = [
        generator.mint(NOW_MS)
        for generator in map(SnowflakeGenerator, range(WORKER_COUNT))
        for _ in range(3)
    ]

    assert len(set(minted)) == 3 * WORKER_COUNT


def test_nothing_is_stamped_below_the_floor() -> None:
    generator = SnowflakeGenerator(0, floor_ms=NOW_MS + 500)

    minted = [generator.mint(NOW_MS) for _ in range(5_000)]

    assert minted_at_ms(minted[0]) >= NOW_MS + 500
    assert len(set(minted)) == 5_000


@pytest.mark.parametrize("worker", [-1, WORKER_COUNT])
def test_worker_number_has_ten_bits(worker: int) -> None:
    with pytest.raises(ValueError, match="worker must be"):
        SnowflakeGenerator(worker)
