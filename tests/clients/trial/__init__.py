"""Conversations by frameworks that are too large for every test run; see scripts/try-clients."""
