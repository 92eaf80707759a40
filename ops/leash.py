"""Runs a command that dies with the process that started it, even where that was killed by -9.

    python -I -S leash.py SIGNAL PARENT USER GROUP COMMAND [ARGUMENT...]

It becomes USER and GROUP (numbers; -1: stays what it is), asks the kernel to send SIGNAL when
PARENT dies, and becomes COMMAND. Linux only; elsewhere the command runs without a leash.

A program of its own and not a `preexec_fn`: the supervisor has gRPC's threads, and forking Python
code under threads can deadlock. It imports the least, for it runs before each child.
"""

import ctypes  # at the top: as another user it may not be able to read Python's library
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Becomes the command; returns only by an exception."""
    signal_number, parent, user, group = (int(part) for part in arguments[:4])
    if user >= 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    if sys.platform == "linux":
        # After the change of user, which takes a leash off.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:  # it died before the leash was on
            os.kill(os.getpid(), signal_number)
    command = arguments[4:]
    os.execv(command[0], command)  # noqa: S606 -- this is its purpose; no shell


if __name__ == "__main__":
    main(sys.argv[1:])
