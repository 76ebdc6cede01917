"""How long codecs and front door are fuzzed: briefly in the suite, at length by scripts/fuzz."""

from __future__ import annotations

import os

from hypothesis import settings

FUZZING = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")), deadline=None)
