import pytest

from bench import burst, capacity_model
from bench.burst import ALL_PUSHED, Population, Tiers
from bench.capacity_model import Costs, Need, Target

SMALL = Population(mean=200.0, greatest=1e6)
COSTS = Costs(
    read={"timeline_server": 200.0, "valkey": 20.0},
    post={"tweet_server": 1_000.0, "postgres": 500.0},
    deliveries_s=200_000.0,
    window_bytes=30_000.0,
    tweet_bytes=1_000.0,
    follow_bytes=200.0,
    user_bytes=500.0,
    growth=[(0, 200.0, 20.0), (50, 400.0, 60.0), (100, 600.0, 100.0)],
)


def test_a_population_has_the_mean_that_was_asked_for() -> None:
    accounts = burst.classes(SMALL)

    assert sum(part for _, part in accounts) == pytest.approx(1)
    assert sum(count * part for count, part in accounts) == pytest.approx(200)


def test_few_accounts_hold_the_followers_in_a_power_law() -> None:
    accounts = burst.classes(SMALL)
    largest = [(count, part) for count, part in accounts if count >= 10_000]

    assert sum(part for _, part in largest) < 0.002
    assert sum(count * part for count, part in largest) > 0.1 * 200


@pytest.mark.parametrize(
    ("followers", "written"),
    [(0, 1), (9_999, 10_000), (10_000, 1_001), (999_999, 100_000.9), (1_000_000, 1)],
)
def test_what_a_post_costs_depends_on_its_authors_tier(followers: float, written: float) -> None:
    assert burst.deliveries(followers, Tiers()) == pytest.approx(written)


def test_without_tiers_the_mean_post_goes_to_the_mean_audience_and_its_author() -> None:
    found = burst.summarise(SMALL, ALL_PUSHED, burst.EVEN)

    assert found.deliveries == pytest.approx(201)
    assert (found.pulled_part, found.pulled_followees) == (0, 0)


def test_tiers_cost_less_the_more_often_large_accounts_post() -> None:
    saved = [
        burst.summarise(SMALL, ALL_PUSHED, weight).deliveries
        / burst.summarise(SMALL, Tiers(), weight).deliveries
        for weight in (burst.EVEN, burst.LIKELY, burst.BY_FOLLOWERS)
    ]

    assert saved == sorted(saved)
    assert saved[0] > 1


def test_fan_out_is_later_the_busier_it_is() -> None:
    load = 100 * burst.summarise(SMALL, Tiers(), burst.EVEN).deliveries
    delays = [
        burst.simulate(SMALL, Tiers(), burst.EVEN, posts_s=100, deliveries_s=load / busy).p99_s
        for busy in (0.1, 0.5, 0.9)
    ]

    assert delays == sorted(delays)
    assert delays[0] > 0


def test_a_lone_post_takes_as_long_as_its_deliveries() -> None:
    late = burst.simulate(SMALL, ALL_PUSHED, burst.EVEN, posts_s=1, deliveries_s=1e9)

    assert late.worst_s < 1e6 / 1e9


def test_cores_are_the_rate_at_its_peak_over_what_a_core_may_do() -> None:
    assert capacity_model.cores(1_000, 200) == pytest.approx(1_000 * 3 * 200e-6 / 0.6)


@pytest.mark.parametrize(
    ("need", "machines"),
    [
        (Need("idle", 0.1), 1),
        (Need("all of one", 16.0), 1),
        (Need("a little more", 16.1), 2),
        (Need("by memory", 1.0, memory_bytes=97e9), 2),
    ],
)
def test_machines_are_by_cores_or_by_memory(need: Need, machines: int) -> None:
    assert capacity_model.nodes(need) == machines


@pytest.mark.parametrize(("x", "value"), [(-1, 10), (0, 10), (5, 15), (10, 20), (15, 40), (99, 60)])
def test_between_points_a_curve_is_straight(x: float, value: float) -> None:
    assert capacity_model.between([(0, 10), (10, 20), (20, 60)], x) == pytest.approx(value)


def test_a_read_grows_with_the_pulled_authors_its_reader_follows() -> None:
    assert capacity_model.read_us(COSTS, 0) == (200, 20)
    assert capacity_model.read_us(COSTS, 50) == (400, 60)


def test_twice_the_posts_need_twice_the_workers_and_as_many_reads_the_same_servers() -> None:
    usual = burst.summarise(SMALL, Tiers(), burst.EVEN)
    once = Target("once", users=1e6, reads_s=1_000, posts_s=100)
    twice = Target("twice", users=1e6, reads_s=1_000, posts_s=200)

    few = {need.what: need.cores for need in capacity_model.needs(once, COSTS, usual)}
    many = {need.what: need.cores for need in capacity_model.needs(twice, COSTS, usual)}

    assert many["fanout_worker"] == pytest.approx(2 * few["fanout_worker"])
    assert many["timeline_server"] == few["timeline_server"]


@pytest.mark.parametrize(
    ("need", "parts"),
    [
        (Need("no store", 99.0), 0),
        (Need("by cores", 2.1, memory_bytes=1e9, shard_bytes=32e9), 3),
        (Need("by memory, with its replica", 2.1, memory_bytes=2 * 100e9, shard_bytes=32e9), 4),
        (Need("of many cores", 17.0, shard_bytes=96e9, shard_cores=16), 2),
    ],
)
def test_stores_are_parted_by_cores_or_by_memory(need: Need, parts: int) -> None:
    assert capacity_model.shards(need) == parts
