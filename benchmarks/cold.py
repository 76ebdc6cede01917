"""A speech pipeline in a fresh process, as without a pool: `python -m benchmarks.cold SETTINGS`.

Says "warm" when the engines are loaded and each has done one real inference, then stays until its
stdin ends. What a zygote does once for all its workers (`preload`) is in it. A worker rehearses a
whole call on top; here that is left out.
"""

from __future__ import annotations

import sys
import time

import msgspec

from voicepool.config import Settings
from voicepool.speech import create


def main() -> None:
    app = create(msgspec.json.decode(sys.argv[1], type=Settings))
    app.preload()
    app.load("host")
    began = time.perf_counter()
    app.warm_up()
    print(f"warm {time.perf_counter() - began}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
