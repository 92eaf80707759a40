"""Carries events from the outbox to consumer groups: the contract, its engines, the runner."""

import mesh.redis_library  # noqa: F401 - before redis  # pyright: ignore[reportUnusedImport]
