from ops import rolling
from ops.processes import KINDS


def test_every_replica_is_restarted_once_and_no_two_of_a_kind_together() -> None:
    names = [f"{kind.name}-{number}" for kind in KINDS for number in (1, 2, 3)]

    steps = rolling.steps(names)

    assert sorted(name for step in steps for name in step) == sorted(names)
    for step in steps:
        kinds = [name.rpartition("-")[0] for name in step]
        assert len(set(kinds)) == len(kinds)


def test_steps_hold_what_there_is() -> None:
    assert rolling.steps(["outbox_relay-1", "outbox_relay-2"]) == [
        ["outbox_relay-1"], ["outbox_relay-2"],
    ]  # fmt: skip
