"""Pictures of what `voicepool bench` has measured, by Matplotlib (the extra `bench`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voicepool.bench.startup import KINDS, Startup
from voicepool.engines.options import require
from voicepool.errors import ConfigError

FORMATS = (".svg", ".png", ".pdf")
_COLORS = ("#9aa5b1", "#2f6fde", "#5b93f5", "#93b8fb")
"""The start, then the users."""


def check(file: Path) -> None:
    """Before anything is measured. Raises ConfigError, EngineUnavailable."""
    if file.suffix not in FORMATS:
        raise ConfigError(f"--chart: {file}: the name must end in one of {', '.join(FORMATS)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--chart: there is no folder {file.parent}")
    require("matplotlib", "matplotlib", "bench")


def draw(results: Sequence[Startup], profile: str, file: Path) -> None:
    """A bar for each server: its start, then each user's wait."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "voicepool"  # the same figures make the same file
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(9, 0.8 * len(results) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    names = [KINDS[result.kind] for result in results]
    left = [0.0] * len(results)
    parts = ["server start", *(f"user {n + 1}" for n in range(len(results[0].users)))]
    for part, label in enumerate(parts):
        widths = [(result.start, *result.users)[part] for result in results]
        color = _COLORS[min(part, len(_COLORS) - 1)]
        axes.barh(names, widths, left=left, label=label, color=color, edgecolor="white")
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for row, result in enumerate(results):
        waits = sum(result.users) / len(result.users)
        text = f" {result.total:.1f} s, a user waits {_wait(waits)}"
        axes.text(result.total, row, text, va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, max(left) * 1.6)
    axes.set_xlabel("seconds until all users can speak, one after another")
    axes.set_title(f"profile {profile}", loc="left", fontsize=10)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _wait(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.1f} s"
