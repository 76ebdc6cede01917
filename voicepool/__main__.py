"""The `voicepool` command, also as `python -m voicepool`."""

import sys


def run() -> int:
    """`cli.main`, for whom a Ctrl-C may come while its imports are still under way."""
    try:
        from voicepool.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
