import json
import random
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import peer_fanout, shape_picture, shape_worlds, tools
from bench.resp import Batch
from bench.shape_picture import Point

POINTS = [
    Point("accounts", 1_000, 200.0, 0.5, 20.0, "power law"),
    Point("accounts", 1_000_000, 250.0, 0.6, 21.0, "power law"),
    Point("celebrities", 0, 200.0, 0.5, 20.0, ""),
    Point("celebrities", 200, 900.0, 9.0, 2.0, ""),
]


def rank(uniform: float, accounts: int) -> int:
    """As the statement in shape_worlds has it."""
    law = shape_worlds.law(accounts)
    return 1 + int((law["low"] + uniform * law["span"]) ** law["power"] - law["head"])


@pytest.mark.parametrize("accounts", [1_000, 1_000_000])
def test_ranks_stay_within_the_accounts(accounts: int) -> None:
    assert rank(0.0, accounts) == 1
    assert accounts - 1 <= rank(1 - 1e-9, accounts) <= accounts


def test_ranks_follow_the_power_law_of_the_generated_graph() -> None:
    draw = random.Random(1)
    counts = Counter(rank(draw.random(), 10_000) for _ in range(200_000))

    def mean_near(first: int) -> float:
        near = range(first, first + first // 5)
        return sum(counts[one] for one in near) / len(near)

    # Ten times the rank (and the head): 10 ** 0.75 = 5.6 times less often.
    assert mean_near(200) / mean_near(2_180) == pytest.approx(5.6, rel=0.1)


def test_points_of_an_axis_replace_those_at_the_same_place(tmp_path: Path) -> None:
    shape_picture.keep(POINTS, tmp_path)
    shape_picture.keep([Point("accounts", 1_000, 300.0, 0.5, 20.0, "again")], tmp_path)

    kept = json.loads((tmp_path / "shape.json").read_text())

    assert [point["cpu_us"] for point in kept] == [300.0, 250.0, 200.0, 900.0]
    assert "| 1,000,000 | 250 | 0.60 | 21.00 | power law |" in (tmp_path / "shape.md").read_text()


def test_the_picture_has_a_panel_for_each_axis_and_a_spot_for_each_figure() -> None:
    root = ElementTree.fromstring(shape_picture.picture(POINTS))
    svg = "{http://www.w3.org/2000/svg}"

    assert len(root.findall(f"{svg}g")) == 2
    spots = root.findall(f".//{svg}circle")
    assert len(spots) == 2 * len(POINTS)
    assert all(0 <= float(spot.attrib["cx"]) <= shape_picture.WIDTH for spot in spots)
    assert all(0 <= float(spot.attrib["cy"]) <= shape_picture.HEIGHT for spot in spots)


@pytest.mark.parametrize(
    ("low", "high", "found"), [(1, 1_000, (0, 3)), (0.2, 11, (-1, 2)), (5, 5, (0, 1))]
)
def test_decades_hold_all_values(low: float, high: float, found: tuple[int, int]) -> None:
    assert shape_picture.decades(low, high) == found


def test_commands_are_encoded_as_valkey_reads_them() -> None:
    batch = Batch()
    batch.add(b"LPUSH", b"key", b"1")

    assert batch.commands == 1
    assert b"".join(batch.parts) == b"*3\r\n$5\r\nLPUSH\r\n$3\r\nkey\r\n$1\r\n1\r\n"


def test_each_system_sends_its_commands_for_each_follower() -> None:
    audiences = [[b"%d" % follower for follower in range(100)]]
    commands = {
        name: sum(batch.commands for _, batch in peer_fanout.encode(audiences, mix.deliver, 1_000))
        for name, mix in peer_fanout.MIXES.items()
    }

    assert (commands["mastodon"], commands["deathstarbench"]) == (6_000, 1_000)
    assert commands["textbook"] == 2_000
    assert 1_050 < commands["misskey"] < 1_150


def test_posts_go_to_audiences_in_turns_until_there_are_enough_deliveries() -> None:
    audiences = [[b"1"] * 10, [b"2"] * 30]
    posts = list(peer_fanout.encode(audiences, peer_fanout.deathstarbench, 75))

    assert [count for count, _ in posts] == [10, 30, 10, 30]


def test_time_of_ended_children_is_found_in_their_parents_line() -> None:
    stat = "42 (postgres: a) S 1 42 42 0 -1 4194560 1 0 0 0 130 20 7 5 20 0 4 0 100 1 1"

    assert tools.ended_children_ticks(stat) == 12
