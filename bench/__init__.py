"""Benchmarks that measure side by side, in one run: `make bench`."""
