"""Benchmarks that measure side by side, in one run: `make bench`."""

import os

# uvloop forks to start a process, and gRPC's handlers of a fork sometimes wait for ever for one of
# its threads. What is forked here runs another program at once. gRPC reads it at its import.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
