"""The histories of test_home_timeline_oracle.py find bugs: each of these, planted, within a bounded
number of them."""

import pytest
from hypothesis import Phase

from mesh.settings import Settings
from tests.property import timeline_machine
from tests.property.planted_bugs import BUGS

HISTORIES = 200  # as many as are played without a bug


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(settings_sync: Settings, monkeypatch: pytest.MonkeyPatch, name: str):
    bug = BUGS[name]
    bug.plant(monkeypatch)
    small = timeline_machine.small(settings_sync, length=bug.length, distance=bug.distance)

    with timeline_machine.playing(small) as machine, pytest.raises(AssertionError):
        timeline_machine.play(
            machine,
            histories=HISTORIES,
            # The first one will do: it need not be made short, or remembered.
            phases=[Phase.generate],
            database=None,
        )
