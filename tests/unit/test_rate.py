import pytest

from domain.rate import Limit, whole_seconds
from mesh.access import KINDS, RULES, Access


def test_a_limit_is_written_as_quota_and_seconds():
    assert Limit.parse("300/10800") == Limit(300, 10_800)
    for wrong in (
        "",
        "300",
        "0/60",
        "60/0",
        "-1/60",
        "1.5/60",
        "1/2/3",
        "300 / 60",
        "9" * 10 + "/1",
    ):
        with pytest.raises(ValueError, match="quota/seconds"):
            Limit.parse(wrong)


def test_the_whole_quota_may_be_used_at_once_and_then_one_more_each_interval():
    limit = Limit(4, 60)

    waits = [limit.wait_us(used * limit.interval_us) for used in range(6)]

    assert waits == [0, 0, 0, 0, 15_000_000, 30_000_000]
    # An interval after the last, one is back.
    assert limit.wait_us(4 * limit.interval_us - 15_000_000) == 0


def test_a_wait_is_rounded_up_to_whole_seconds():
    assert [whole_seconds(us) for us in (1, 1_000_000, 1_000_001)] == [1, 1, 2]


def test_every_method_that_users_call_has_a_kind():
    callable_by_users = {path for path, rule in RULES.items() if rule is not Access.SERVICE}

    assert set(KINDS) == callable_by_users
