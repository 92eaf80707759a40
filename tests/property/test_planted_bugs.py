"""The histories of test_home_timeline_oracle.py find bugs: each of these, planted, within as many
as are played without a bug."""

from contextlib import suppress

import pytest
from hypothesis import Phase
from hypothesis.errors import Flaky

from mesh.settings import Settings
from tests.property import timeline_machine
from tests.property.planted_bugs import BUGS
from tests.property.test_home_timeline_oracle import HISTORIES


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(settings_sync: Settings, monkeypatch: pytest.MonkeyPatch, name: str):
    bug = BUGS[name]
    bug.plant(monkeypatch)
    small = timeline_machine.small(settings_sync, length=bug.length, distance=bug.distance)

    # A race need not come out the same way when hypothesis tries it again: Flaky.
    with timeline_machine.playing(small) as machine, suppress(AssertionError, Flaky):
        timeline_machine.play(
            machine,
            histories=3 * HISTORIES,
            seed_of=bug.seed,
            # The first one will do: it need not be made short, or remembered.
            phases=[Phase.generate],
            report_multiple_bugs=False,
            database=None,
            derandomize=True,  # the same histories in each run
        )

    assert timeline_machine.TimelineMachine.found is not None
