"""Remembers: all SQL and all of Valkey's keys, a file for each noun."""

import mesh.redis_library  # noqa: F401 - before redis  # pyright: ignore[reportUnusedImport]
