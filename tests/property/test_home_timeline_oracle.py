"""Whatever happened before: once the log is drained, all pages of every home timeline laid end to
end equal the oracle."""

import pytest

from mesh.settings import Settings
from tests.property import timeline_machine

HISTORIES = 67  # for each length and distance
STEPS = 40  # many of them are several: a post beside a slow read, a crash between two drains
EXPLAINED = 12


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("length", "distance"), [(7, 3), (3, 3), (800, 40)])
def test_after_any_history_home_timelines_equal_the_oracle(
    settings_sync: Settings, length: int, distance: int
):
    small = timeline_machine.small(settings_sync, length=length, distance=distance)
    with timeline_machine.playing(small) as machine:
        timeline_machine.play(machine, histories=HISTORIES, steps=STEPS)


@pytest.mark.timeout(900)
def test_after_any_history_what_is_explained_is_so(settings_sync: Settings):
    small = timeline_machine.small(settings_sync, length=7, distance=3)
    with timeline_machine.playing(small):
        timeline_machine.play(timeline_machine.ExplainedMachine, histories=EXPLAINED, steps=STEPS)
