from collections import Counter
from random import Random

import pytest

from domain import sample_graph, sample_tweets, tweet, user

PEOPLE, FOLLOWS = 200, 4_000


def test_one_seed_gives_one_world():
    one = sample_graph.people(Random(7), 50), sample_graph.follows(Random(7), 50, 400)
    again = sample_graph.people(Random(7), 50), sample_graph.follows(Random(7), 50, 400)

    assert one == again
    assert sample_graph.follows(Random(8), 50, 400) != one[1]


def test_people_have_different_names_that_can_sign_up():
    people = sample_graph.people(Random(1), 1_000)

    assert len({person.username.lower() for person in people}) == 1_000
    for person in people:
        profile = user.draft(person.username, person.display_name, person.bio, person.location)
        assert profile.username == person.username
    assert people[0].username == "ada"


def test_follows_are_as_many_as_asked_for_and_all_different():
    pairs = sample_graph.follows(Random(1), PEOPLE, FOLLOWS)

    assert len(set(pairs)) == len(pairs) == FOLLOWS
    assert all(follower != followee for follower, followee in pairs)
    assert {rank for pair in pairs for rank in pair} == set(range(PEOPLE))


def test_followers_fall_off_as_a_power_law_and_the_first_follows_most():
    pairs = sample_graph.follows(Random(1), PEOPLE, FOLLOWS)

    followers = Counter(followee for _, followee in pairs)
    following = Counter(follower for follower, _ in pairs)
    tenth = sum(followers[rank] for rank in range(PEOPLE // 10))
    assert tenth > 0.3 * FOLLOWS
    assert followers[0] > 5 * followers[PEOPLE - 1]
    assert following.most_common(1)[0][0] == 0


@pytest.mark.parametrize(("people", "count"), [(0, 0), (1, 0), (2, 0), (2, 2), (5, 20), (5, 1)])
def test_the_smallest_and_the_fullest_graphs_can_be_made(people: int, count: int):
    assert len(set(sample_graph.follows(Random(1), people, count))) == count


@pytest.mark.parametrize(("people", "count"), [(2, 3), (5, 21), (1, 1), (3, -1)])
def test_a_graph_that_cannot_be_is_refused(people: int, count: int):
    with pytest.raises(ValueError, match="cannot follow"):
        sample_graph.follows(Random(1), people, count)


def test_tweets_are_postable_and_answer_older_ones():
    names = [person.username for person in sample_graph.people(Random(1), PEOPLE)]

    said = sample_tweets.tweets(Random(1), names, count=2_000, span_s=3_600.0)

    assert len(said) == 2_000
    assert [one.age_s for one in said] == sorted((one.age_s for one in said), reverse=True)
    for position, one in enumerate(said):
        tweet.draft(
            content=one.content,
            media_urls=(),
            location="",
            reply_to=0,
            quote_of=0,
            request_id="",
        )
        assert 0 <= one.age_s <= 3_600
        assert one.reply_to is None or one.reply_to < position
        assert set(tweet.mentioned_names(one.content)) <= set(names)
    assert any(one.reply_to is not None for one in said)
    assert any(tweet.mentioned_names(one.content) for one in said)


def test_one_tag_rises_and_the_others_are_spread_by_a_power_law():
    names = [person.username for person in sample_graph.people(Random(1), PEOPLE)]

    said = sample_tweets.tweets(Random(1), names, count=10_000, span_s=12 * 3_600.0)

    rising = [one.age_s for one in said if f"#{sample_tweets.RISING}" in one.content]
    assert max(rising) <= sample_tweets.RISING_FOR_S
    half = sample_tweets.RISING_FOR_S / 2
    assert sum(age < half for age in rising) > 2 * sum(age >= half for age in rising)
    tags = Counter(tag for one in said for tag in tweet.hashtags(one.content))
    first, *_, last = sample_tweets.TOPICS
    assert tags[first] > 5 * tags[last] > 0
