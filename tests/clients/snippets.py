"""The snippets of docs/clients.md, so that they are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
ADDRESS = "127.0.0.1:8000"
"""That all of them name."""

_BLOCK = re.compile(
    r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)


def snippets(heading: str, language: str) -> list[str]:
    """The code in a section of the page, in this language."""
    found: list[str] = []
    section = ""
    for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        section = block["heading"] or section
        if block["code"] and (section, block["language"]) == (heading, language):
            found.append(block["code"])
    assert found, f"{PAGE.name} has no {language} under {heading!r}"
    return found


def aimed(code: str, url: str) -> str:
    """The snippet for a server at `url`, such as wss://127.0.0.1:41234."""
    return code.replace(ADDRESS, url.rpartition("/")[2])
