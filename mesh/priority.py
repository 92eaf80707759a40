"""Where servers and workers share processors, workers give way: callers wait for servers.

What it brings is in docs/decisions/0013: on two cores, posts at a third of their highest rate had a
p99 of 17 to 26 ms instead of 19 to 77.
"""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

NICENESS = 10  # about a tenth of a server's share of a processor that both want
AUTOGROUP = Path("/proc/self/autogroup")
# Linux takes one such wish in a tenth of a second, of all processes together.
TRIES_MAX = 20
TRY_AGAIN_S = 0.05


def give_way() -> None:
    """Lowers the priority of this process. Call it before threads start."""
    os.nice(NICENESS)
    # Where Linux groups processes by session, niceness counts inside a session only, and the
    # session has one of its own. Others' sessions are none of our business.
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            _lower_session()


def _lower_session() -> None:
    for _ in range(TRIES_MAX):
        try:
            AUTOGROUP.write_text(str(NICENESS))
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
        time.sleep(TRY_AGAIN_S)
