"""`voicepool key`: makes keys for callers and operators, and shows whose they are."""

from __future__ import annotations

import argparse
import datetime
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from voicepool import keys, keysfile
from voicepool.errors import ConfigError, ExitCode
from voicepool.keys import PREFIX, Key, Scope, digest_of, scopes_text, write_line

HELP = "Make keys that let callers and operators in, and see whose there are."

EPILOG = """Where the keys are is the setting keys_file, a file with one key a line:

  NAME SCOPES sha256:HEX [expires=YYYY-MM-DD]     # a comment

It has no key itself, only its SHA-256, so whoever reads it cannot use it. Scope call opens calls,
admin shows the inside of the server (/status, /metrics).

examples:
  voicepool key new website --file /etc/voicepool/keys
  voicepool key new oncall --scope admin --expires 2027-06-30 --file /etc/voicepool/keys
  voicepool key list --file /etc/voicepool/keys

A key is withdrawn by deleting its line. The server reads the file at its start and at every reload:
  systemctl reload voicepool        or: kill -HUP to the server"""

_NEW = "Make a key: it is printed once, and kept nowhere."

_NEW_EPILOG = """The key goes to stdout, to be given to whoever shall have it. Its line goes to
--file, where the server looks; without --file it is printed below the key, to be put there.

  KEY=$(voicepool key new website --file keys)     # $KEY is known here alone

NAME is who the logs say has called. To replace a key without a gap, make one with another name,
hand it out, then delete the old line."""

_LIST = "Show the keys of a file: names, scopes, when they expire, fingerprints."

_LIST_EPILOG = """The fingerprint is the beginning of the key's SHA-256. Which one a key is:
  printf %s "$KEY" | sha256sum"""


def add_to(key: argparse.ArgumentParser) -> None:
    """The grammar of `key`'s own commands."""
    key.set_defaults(parser=key)
    verbs = key.add_subparsers(title="commands", metavar="COMMAND", required=True)
    new = verbs.add_parser("new", help=_NEW, description=_NEW, epilog=_NEW_EPILOG)
    new.set_defaults(run=make, parser=new)
    new.add_argument("name", metavar="NAME", type=_wanted(keys.parse_name), help="whose it is")
    new.add_argument(
        "--scope",
        metavar="SCOPES",
        type=_wanted(keys.parse_scopes),
        default=frozenset({Scope.CALL}),
        help="what it is good for: call, admin or call,admin (default call)",
    )
    new.add_argument(
        "--expires",
        metavar="DATE",
        type=_wanted(_coming_day),
        help="the last day, in UTC, on which it is good, as 2027-06-30 (default: for ever)",
    )
    new.add_argument(
        "--file",
        metavar="PATH",
        type=Path,
        help="add its line to this file, which is made for its owner alone if need be",
    )
    listing = verbs.add_parser("list", help=_LIST, description=_LIST, epilog=_LIST_EPILOG)
    listing.set_defaults(run=show, parser=listing)
    listing.add_argument("--file", metavar="PATH", type=Path, required=True, help="the keys file")


def _wanted(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` for an argument: what its ValueError says reaches the person."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _coming_day(text: str) -> datetime.date:
    day = keys.parse_date(text)
    if day < keys.day_of(time.time()):
        raise ValueError(f"{day} is over")
    return day


def make(args: argparse.Namespace) -> ExitCode:
    """Print a new key, and keep its line. Raises ConfigError."""
    text = PREFIX + secrets.token_hex(24)
    key = Key(digest_of(text), args.scope, args.name, args.expires)
    if args.file is None:
        print(text)
        print(write_line(key))
        return ExitCode.OK
    try:
        keysfile.append(args.file, key)
    except OSError as error:
        raise ConfigError(f"--file: {args.file}: cannot be written: {error.strerror}") from error
    print(text)
    print(
        f"voicepool: its line is in {args.file}; the server knows it after its next reload",
        file=sys.stderr,
    )
    return ExitCode.OK


def show(args: argparse.Namespace) -> ExitCode:
    """Print the keys of a file as a table. Raises ConfigError."""
    print(table(keysfile.read(str(args.file)), time.time()))
    return ExitCode.OK


def table(listed: Iterable[Key], now: float) -> str:
    """A line for each key, below a heading."""
    rows = [("NAME", "SCOPES", "EXPIRES", "FINGERPRINT")]
    rows += (
        (key.name, scopes_text(key.scopes), _expiry(key, now), key.fingerprint) for key in listed
    )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _expiry(key: Key, now: float) -> str:
    if key.expires is None:
        return "never"
    return f"{key.expires}{' (expired)' if key.expired(now) else ''}"
