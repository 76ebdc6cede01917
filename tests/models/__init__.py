"""Models of the real architectures with random weights, made on the spot: nothing is downloaded."""

from __future__ import annotations

import os

NOWHERE = "http://127.0.0.1:9"
"""The hub of all tests but those with one of their own (tests/hub.py); nobody answers there."""

# Read once, when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_ENDPOINT"] = NOWHERE
