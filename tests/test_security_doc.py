"""Every line of docs/security.md names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
HEADING = ["threat", "what stands against it", "test"]
NAME = re.compile(r"`(tests/test_\w+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    """The cells of every row of every table, headings included."""
    lines = (line for line in PAGE.splitlines() if line.startswith("|"))
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [row for row in cells if set(row[0]) != {"-"}]


def threats() -> list[list[str]]:
    return [row for row in rows() if row != HEADING]


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_every_actor_has_a_table() -> None:
    section = PAGE.partition("\n## Threats\n")[2].partition("\n## ")[0]
    parts = section.split("\n### ")[1:]
    assert parts
    for part in parts:
        assert len(re.findall(r"^\| threat \|", part, re.MULTILINE)) == 1, part.splitlines()[0]
    assert len(parts) == rows().count(HEADING)


@pytest.mark.parametrize("row", threats(), ids=lambda row: row[0][:60])
def test_a_line_names_what_shows_it(row: list[str]) -> None:
    threat, defence, shown = row
    assert threat
    assert defence
    named = NAME.findall(shown)
    assert named
    assert ", ".join(f"`{file}::{test}`" for file, test in named) == shown
    for file, test in named:
        assert test in functions_of(file), f"{file} has no {test}"


def test_no_threat_is_listed_twice() -> None:
    texts = [(threat, defence) for threat, defence, _ in threats()]
    assert len(texts) == len(set(texts))
