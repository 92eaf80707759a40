"""A hypothesis state machine over a running Chirp: stories (timeline_story.py) of random steps."""

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import HealthCheck, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from mesh.settings import Settings
from servers import relation_eraser, tweet_eraser
from tests.property import points
from tests.property.points import FANOUT_CRASHES, REBUILD_HOLDS, RELAY_CRASHES, Points
from tests.property.timeline_story import PEOPLE, Story
from tests.world import World, open_world

STEPS = 60
PARTITIONS = 4
ERASED_EACH = 2  # tweets or relations in one step: an erasure takes several
STEP_TIMEOUT_S = 60.0

people = st.integers(0, PEOPLE - 1)
which = st.integers(0, 1_000)
LAST = -1
ENGAGEMENTS = ("reply", "quote", "retweet", "retweet", "undo retweet", "like", "unlike", "delete")
RELATIONS = ("follow", "follow", "follow", "unfollow", "block", "unblock", "mute", "unmute")
OPPOSITES = {
    "follow": "unfollow", "unfollow": "follow", "block": "unblock", "unblock": "block",
    "mute": "unmute", "unmute": "mute",
}  # fmt: skip
relations = st.sampled_from(RELATIONS)


def small(settings: Settings, *, length: int, distance: int) -> Settings:
    """Settings under which every edge is met often."""
    return settings.model_copy(
        update={
            "timeline_length": length,
            "repeat_distance": distance,
            # With four people, crossings happen all the time.
            "influencer_followers": 2,
            "celebrity_followers": 3,
            "tier_hysteresis": 0.9,
            "timeline_shards": 2,
            "eventlog_partitions": PARTITIONS,
            "fanout_chunk_deliveries": 4,
            "consumer_batch": 4,
        }
    )


class TimelineMachine(RuleBasedStateMachine):
    """The steps. `world`, `points` and `runner` are set for the time of a test."""

    world: ClassVar[World]
    points: ClassVar[Points]
    runner: ClassVar[asyncio.Runner]
    found: ClassVar[AssertionError | None] = None
    """What the last story with a bad end ended with."""
    explained: ClassVar[bool] = False
    """Whether every tweet is explained to everybody at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.points.reset()
        self.story = Story(
            self.world, self.points, self.runner.run(self.world.accounts.insert(PEOPLE))
        )
        self.broken = False

    def run(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            self.runner.run(asyncio.wait_for(step, STEP_TIMEOUT_S))
        except BaseException as error:
            self.broken = True
            if isinstance(error, AssertionError):
                TimelineMachine.found = error
            raise

    @initialize(follows=st.sets(st.tuples(people, people), min_size=3, max_size=10))
    def follow_some(self, follows: set[tuple[int, int]]) -> None:
        for follower, followee in sorted(follows):
            self.run(self.story.relate("follow", follower, followee))

    @rule(author=people, count=st.integers(1, 3))
    def post(self, author: int, count: int) -> None:
        self.run(self.story.post(author, count))

    @rule(kind=st.sampled_from(ENGAGEMENTS), person=people, which=which)
    def engage(self, kind: str, person: int, which: int) -> None:
        self.run(self.story.engage(kind, person, which))

    @rule(which=which, person=people)
    def delete_and_read(self, which: int, person: int) -> None:
        self.run(self.story.engage("delete", person, which))
        self.run(self.story.read(person))

    @rule(which=which, retweeter=people, person=people)
    def delete_what_was_retweeted(self, which: int, retweeter: int, person: int) -> None:
        self.run(self.story.engage("retweet", retweeter, which))
        self.run(self.story.drain_and_check(person))
        self.run(self.story.engage("delete", person, which))
        self.run(self.story.drain_and_check(person))

    @rule(which=which, people=st.lists(people, min_size=2, max_size=3))
    def retweet_one_after_the_other(self, which: int, people: list[int]) -> None:
        for person in people:
            self.run(self.story.engage("retweet", person, which))

    @rule(kind=relations, person=people, other=people)
    def relate(self, kind: str, person: int, other: int) -> None:
        self.run(self.story.relate(kind, person, other))

    @rule(person=people, steps=st.integers(0, 4))
    def erase(self, person: int, steps: int) -> None:
        self.run(self.story.erase(person))
        self.run(self.story.take_away(steps))

    @rule(author=people, retweeter=people, person=people)
    def erase_who_is_retweeted(self, author: int, retweeter: int, person: int) -> None:
        self.run(self.story.relate("follow", person, retweeter))
        self.run(self.story.post(author))
        self.run(self.story.engage("retweet", retweeter, LAST))
        self.run(self.story.drain_and_check(person))
        self.run(self.story.erase(author))
        self.run(self.story.drain_and_check(person))

    @rule(steps=st.integers(1, 4))
    def take_away(self, steps: int) -> None:
        self.run(self.story.take_away(steps))

    @rule(person=people)
    def read(self, person: int) -> None:
        self.run(self.story.read(person))

    @rule(which=which)
    def read_on(self, which: int) -> None:
        self.run(self.story.read_on(which))

    @rule(crash_at=st.sampled_from((None, None, *RELAY_CRASHES)))
    def relay(self, crash_at: str | None) -> None:
        self.run(self.story.relay(crash_at))

    @rule(crash_at=st.sampled_from((None, None, None, *FANOUT_CRASHES)))
    def fan_out(self, crash_at: str | None) -> None:
        self.run(self.story.fan_out(crash_at))

    @rule(person=people, point=st.sampled_from(REBUILD_HOLDS), kind=relations, other=people)
    def turn_back_beside_a_slow_read(self, person: int, point: str, kind: str, other: int) -> None:
        self.run(self.story.relate(OPPOSITES[kind], person, other))
        self.run(self.story.post(other))
        self.run(self.story.begin_slow_read(person, point))
        self.run(self.story.relate(kind, person, other))
        self.run(self.story.drain_and_check(person))

    @rule(author=people, retweeter=people, kind=relations, person=people)
    def turn_from_who_is_retweeted(
        self, author: int, retweeter: int, kind: str, person: int
    ) -> None:
        self.run(self.story.post(author))
        self.run(self.story.engage("retweet", retweeter, LAST))
        self.run(self.story.relate("follow", person, retweeter))
        self.run(self.story.relate(kind, author, person))
        self.run(self.story.drain_and_check(person))

    @rule(kind=st.sampled_from(("follow", "unfollow")), author=people, other=people, person=people)
    def cross_a_line_before_fan_out(self, kind: str, author: int, other: int, person: int) -> None:
        for follower in range(PEOPLE):
            turned = OPPOSITES[kind] if follower == other else "follow"
            self.run(self.story.relate(turned, follower, author))
        self.run(self.story.drain_and_check(person))
        self.run(self.story.post(author))
        self.run(self.story.relate(kind, other, author))
        self.run(self.story.drain_and_check(person))

    @rule(
        author=people,
        in_relay=st.sampled_from((None, *RELAY_CRASHES)),
        in_fan_out=st.sampled_from(FANOUT_CRASHES),
        person=people,
    )
    def post_into_a_crash(
        self, author: int, in_relay: str | None, in_fan_out: str, person: int
    ) -> None:
        self.run(self.story.drain_and_check(person))
        self.run(self.story.post(author))
        self.run(self.story.relay(in_relay))
        self.run(self.story.fan_out(in_fan_out))
        self.run(self.story.drain_and_check(person))

    @rule(person=people)
    def drain(self, person: int) -> None:
        self.run(self.story.drain_and_check(person))

    @rule(person=people, author=people)
    def post_to_a_reader_gone_cold(self, person: int, author: int) -> None:
        self.run(self.story.go_cold(person))
        self.run(self.story.post(author))
        self.run(self.story.drain_and_check(person))

    @rule(person=people, author=people, point=st.sampled_from(REBUILD_HOLDS))
    def post_beside_a_slow_read(self, person: int, author: int, point: str) -> None:
        self.run(self.story.begin_slow_read(person, point))
        self.run(self.story.post(author))
        self.run(self.story.drain_and_check(person))

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def delay(self, partition: int) -> None:
        self.points.late_partitions.add(partition)

    @rule()
    def deliver_late(self) -> None:
        self.points.deliver_all()

    @rule()
    def rewind(self) -> None:
        self.run(self.story.world.rewind())

    @rule()
    def lose_cache(self) -> None:
        self.run(self.story.lose_cache())

    @rule(which=which)
    def evict(self, which: int) -> None:
        self.run(self.story.evict(which))

    @rule()
    def cache_is_away_for_the_next_change(self) -> None:
        self.story.blink = True

    @rule(person=people)
    def go_cold(self, person: int) -> None:
        self.run(self.story.go_cold(person))

    @rule(person=people)
    def begin_slow_post(self, person: int) -> None:
        self.run(self.story.begin_slow_post(person))

    @rule(person=people, point=st.sampled_from(REBUILD_HOLDS))
    def begin_slow_read(self, person: int, point: str) -> None:
        self.run(self.story.begin_slow_read(person, point))

    @rule(person=people)
    def end_slow_calls(self, person: int) -> None:
        self.run(self.story.end_slow_read(person))
        self.run(self.story.end_slow_post(person))

    def teardown(self) -> None:
        if not self.broken:
            self.run(self.story.end())
            if self.explained:
                self.run(self.story.explain_all())
        else:
            self.runner.run(self.story.abandon())


class ExplainedMachine(TimelineMachine):
    """The same, with every tweet explained to everybody at the end."""

    explained = True


@contextmanager
def playing(settings: Settings) -> Generator[type[TimelineMachine]]:
    """Opens a world for machines."""
    with (
        points.installed() as installed,
        patch.object(relation_eraser, "STEP_MAX", ERASED_EACH),
        patch.object(tweet_eraser, "STEP_MAX", ERASED_EACH),
        asyncio.Runner() as runner,
    ):
        opened = open_world(settings)
        TimelineMachine.runner = runner
        TimelineMachine.found = None
        TimelineMachine.points = installed
        TimelineMachine.world = runner.run(opened.__aenter__())
        try:
            yield TimelineMachine
        finally:
            installed.reset()
            runner.run(opened.__aexit__(None, None, None))


def play(
    machine: type[TimelineMachine],
    *,
    histories: int,
    steps: int = STEPS,
    seed_of: int | None = None,
    **more: Any,
) -> None:
    """Plays random stories, of a seed the same in each run; raises what the first bad one raised,
    made short."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine if seed_of is None else seed(seed_of)(type(machine.__name__, (machine,), {})),
        settings=hypothesis_settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            **more,
        ),
    )
