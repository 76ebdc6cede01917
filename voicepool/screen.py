"""What `voicepool talk` shows: lines that grow in place on a terminal, plain ones elsewhere."""

from __future__ import annotations

import shutil
from typing import TextIO

from voicepool.dialogue import Line, Side
from voicepool.logs import escape

_LABELS = {Side.CALLER: "you    ", Side.VOICE: "voice  ", Side.NOTE: "       "}
_COLORS = {Side.CALLER: "36", Side.VOICE: "32", Side.NOTE: "2"}
_LONGEST = 20_000


class Screen:
    """Prints lines. Everything in them comes from a server, so all of it is escaped."""

    def __init__(self, stream: TextIO, *, live: bool, color: bool) -> None:
        self._stream = stream
        self._live = live
        self._color = color
        self._growing: Side | None = None
        """Whose unfinished line the cursor is on."""
        self._last: dict[Side, str] = {}

    def show(self, line: Line) -> None:
        text = escape(line.text, _LONGEST)
        if self._live:
            self._show_live(line.side, text, line.final)
        elif line.final or line.side is Side.CALLER:
            # A reply grows with every word of a language model: too much for a log file.
            self._show_plain(line.side, text, line.final)

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._growing is not None:
            self._growing = None
            self._write("\n")

    def _show_plain(self, side: Side, text: str, final: bool) -> None:
        if not final and text == self._last.get(side):
            return
        self._last[side] = "" if final else text
        self._write(f"{_LABELS[side]}{text}{'' if final else ' ...'}\n")

    def _show_live(self, side: Side, text: str, final: bool) -> None:
        if self._growing is not None and self._growing is not side:
            self.close()
        if not final:
            # The end is what is new; a line that wraps could not be taken back.
            room = max(10, shutil.get_terminal_size().columns - len(_LABELS[side]) - 1)
            text = text if len(text) <= room else "..." + text[3 - room :]
        painted = f"\x1b[{_COLORS[side]}m{text}\x1b[0m" if self._color else text
        self._write(f"\r\x1b[K{_LABELS[side]}{painted}{chr(10) if final else ''}")
        self._growing = None if final else side

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
