"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.quantities import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("1.5", 1.5),
        (".5s", 0.5),
        ("250ms", 0.25),
        (" 5 m ", 300),
        ("2h", 7200),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("512MiB", 512 << 20),
        ("512Mi", 512 << 20),
        ("1.5 GiB", 3 << 29),
        ("2GB", 2_000_000_000),
        ("3kB", 3000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1e3", "1 2", "5 parsecs", "nan", "inf", "9" * 400]
)
def test_no_quantity_at_all(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize("text", ["2G", "2M", "2K"])
def test_sizes_that_programs_disagree_on_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@given(st.integers(0, 10**7))
def test_a_formatted_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.integers(0, 1 << 48))
def test_a_formatted_size_reads_back_to_three_digits(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=6e-3, abs=1)
