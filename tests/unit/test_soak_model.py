"""What the soak takes for certain, and what it says of a page."""

import pytest

from tests.soak import plan
from tests.soak.model import PROMISED_S, Model, Outcome, Relation, Shown

VIEWER, AUTHOR, OTHER = 1, 2, 3
DONE, REFUSED, FAILED = Outcome.DONE, Outcome.REFUSED, Outcome.FAILED


def change(
    model: Model, relation: Relation, wanted: bool, at: float, outcome: Outcome = DONE
) -> None:
    model.begin(relation, wanted)
    model.end(relation, outcome, wanted, at)


def flaws(model: Model, *page: Shown, asked_at: float = 10 + PROMISED_S) -> list[str]:
    return list(model.flaws(VIEWER, page, asked_at))


def test_what_was_deleted_may_be_shown_for_as_long_as_promised():
    model = Model(deleted={7: 10.0})

    for shown in (
        Shown(7, AUTHOR), Shown(8, OTHER, original=7), Shown(8, VIEWER, original=7),
        Shown(8, OTHER, quoted=7),
    ):  # fmt: skip
        assert len(flaws(model, shown)) == 1
        assert flaws(model, shown, asked_at=10 + PROMISED_S - 0.1) == []
    assert flaws(model, Shown(9, AUTHOR)) == []


@pytest.mark.parametrize(
    "relation", [("block", VIEWER, AUTHOR), ("block", AUTHOR, VIEWER), ("mute", VIEWER, AUTHOR)]
)
def test_nothing_of_somebody_hidden_may_be_shown(relation: Relation):
    model = Model(authors={6: AUTHOR})
    pages = [
        Shown(7, AUTHOR), Shown(8, OTHER, original=7, original_author=AUTHOR),
        Shown(9, OTHER, reply_to=6), Shown(9, OTHER, quoted=7, quoted_author=AUTHOR),
    ]  # fmt: skip
    assert [flaws(model, page) for page in pages] == [[]] * 4

    change(model, relation, True, 10.0)

    assert all(flaws(model, page) for page in pages)
    assert [flaws(model, page, asked_at=11.9) for page in pages] == [[]] * 4
    # The viewer's own stay, whatever they repeat or answer.
    assert flaws(model, Shown(9, VIEWER, reply_to=6)) == []
    change(model, relation, False, 20.0)
    change(model, ("follow", VIEWER, AUTHOR), True, 21.0)
    assert [flaws(model, page, asked_at=30.0) for page in pages] == [[]] * 4


def test_a_muted_viewer_sees_who_mutes():
    model = Model()

    change(model, ("mute", AUTHOR, VIEWER), True, 10.0)

    assert flaws(model, Shown(7, AUTHOR)) == []


def test_a_block_ends_follows_and_taking_it_back_brings_none():
    model = Model()
    change(model, ("follow", VIEWER, AUTHOR), True, 1.0)

    change(model, ("block", AUTHOR, VIEWER), True, 10.0)
    change(model, ("block", AUTHOR, VIEWER), False, 11.0)

    assert dict(model.known_relations()) == {
        ("follow", VIEWER, AUTHOR): False,
        ("follow", AUTHOR, VIEWER): False,
        ("block", AUTHOR, VIEWER): False,
    }
    assert "not followed" in flaws(model, Shown(7, AUTHOR))[0]


def test_a_refused_call_changes_nothing_and_a_failed_one_leaves_nothing_known():
    model = Model()
    follow = ("follow", VIEWER, AUTHOR)
    change(model, follow, False, 10.0)

    change(model, follow, True, 11.0, REFUSED)
    assert dict(model.known_relations()) == {follow: False}
    assert flaws(model, Shown(7, AUTHOR))

    change(model, follow, True, 12.0, FAILED)
    assert dict(model.known_relations()) == {}
    assert flaws(model, Shown(7, AUTHOR)) == []


def test_of_calls_that_overlap_nothing_is_known_until_one_stands_alone():
    model = Model()
    follow = ("follow", VIEWER, AUTHOR)
    model.begin(follow, True)
    model.begin(("block", VIEWER, AUTHOR), True)
    model.end(("block", VIEWER, AUTHOR), DONE, True, 10.0)
    model.end(follow, DONE, True, 10.5)

    assert follow not in dict(model.known_relations())
    assert dict(model.known_relations())[("block", VIEWER, AUTHOR)] is True

    change(model, follow, False, 11.0)
    assert dict(model.known_relations())[follow] is False


def test_while_a_call_is_under_way_nothing_is_known():
    model = Model()
    change(model, ("mute", VIEWER, AUTHOR), True, 1.0)

    model.begin(("mute", VIEWER, AUTHOR), False)

    assert flaws(model, Shown(7, AUTHOR)) == []


def test_a_retweet_that_was_undone_may_not_be_shown():
    model = Model()
    for author in (VIEWER, AUTHOR):
        change(model, ("retweet", author, 5), False, 10.0)
        retweet = Shown(9, author, original=5, original_author=OTHER)

        assert "undone" in flaws(model, retweet)[0]
        change(model, ("retweet", author, 5), True, 11.0)
        assert flaws(model, retweet, asked_at=20.0) == []


@pytest.mark.parametrize("ids", [(2, 1, 3), (2, 2), (1, 2)])
def test_pages_are_newest_first_and_without_repetition(ids: tuple[int, ...]):
    assert "out of order or twice" in flaws(Model(), *(Shown(i, AUTHOR) for i in ids))[0]


def test_a_seed_gives_the_same_plan_again_and_another_one_another():
    plans = [plan.make(seed) for seed in (5, 5, 6)]

    assert plans[0] == plans[1] != plans[2]
    for one in map(plan.make, range(50)):
        assert {step.operation for step in one.steps} <= set(plan.OPERATIONS)
        assert {fault.what for fault in one.faults} <= set(plan.FAULTS)
        assert one.faults
        assert all(0 <= fault.after_steps < len(one.steps) for fault in one.faults)
