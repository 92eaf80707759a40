"""Carries events from the outbox to consumer groups: the contract, its engines, the runner."""
