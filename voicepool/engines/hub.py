"""Model files of the Hugging Face Hub: whether they are here, and how to get them.

Only `fetch` uses the network. The cache is the Hub library's own, so what other programs have
downloaded is found too, and HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean
everywhere (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables).
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from voicepool.engines import options as engine_options
from voicepool.engines.base import Download
from voicepool.errors import EngineUnavailable

Report = Callable[[Download], None]

DEADLINE = 20.0
"""Seconds in which the Hub has to answer what a repository holds."""


def is_repository(name: str) -> bool:
    """Whether a repository could have this name."""
    try:
        _library("utils").validate_repo_id(name)
    except _library("errors").HFValidationError:
        return False
    return True


def find(repo: str, name: str, *, cache: str = "") -> Path | None:
    """Where a repository's file is on this machine, None if it is not. Asks nobody."""
    found = _library().try_to_load_from_cache(repo, name, cache_dir=cache or None)
    return Path(found) if isinstance(found, str) else None


def fetch(
    repo: str,
    needed: Sequence[str],
    report: Report,
    *,
    label: str,
    optional: Sequence[str] = (),
    cache: str = "",
) -> None:
    """Download the files of `repo` that match a pattern and are not here yet; blocks.

    `label` stands before the file's name in what `report` hears. Raises
    EngineUnavailable: no way to the Hub, no such repository, or nothing in it that matches one of
    `needed`.
    """
    try:
        sizes = _sizes(repo)
        for pattern in needed:
            if not any(fnmatch(name, pattern) for name in sizes):
                raise EngineUnavailable(f"{label}: the repository {repo} has no file {pattern}")
        for name, size in sizes.items():
            if any(fnmatch(name, pattern) for pattern in (*needed, *optional)):
                _download(repo, name, size, report, label, cache)
    except EngineUnavailable:
        raise
    except Exception as error:  # the HTTP library's own, and which one that is has changed
        raise EngineUnavailable(f"{label}: {_explain(repo, error)}") from error


def _library(part: str = "") -> Any:
    """The library or a part of it, of which it imports none by itself."""
    module = f"huggingface_hub.{part}" if part else "huggingface_hub"
    return engine_options.require(module, "huggingface-hub", "models")


def _sizes(repo: str) -> dict[str, int | None]:
    """Name -> bytes of each file in the repository."""
    about = _library().HfApi().model_info(repo, files_metadata=True, timeout=DEADLINE)
    return {file.rfilename: file.size for file in about.siblings or ()}


def _download(
    repo: str, name: str, size: int | None, report: Report, label: str, cache: str
) -> None:
    shown = f"{label}: {name}"
    path = _library().hf_hub_download(
        repo,
        name,
        cache_dir=cache or None,
        tqdm_class=_meter(lambda done: report(Download(shown, done, size))),
    )
    there = Path(path).stat().st_size
    report(Download(shown, there, there))


def _meter(tell: Callable[[int], None]) -> type:
    """A tqdm class that draws nothing and tells the bytes that are done, now and then.

    The library makes one or two bars for a file, of what is received and of what is written; the
    one that is ahead counts.
    """
    bar: Any = engine_options.require("tqdm", "tqdm", "models").tqdm
    furthest = 0

    class Meter(bar):  # type: ignore[misc] # untyped
        monitor_interval = 0  # no thread that redraws bars which hang

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, *args: Any, **kwargs: Any) -> None:
            nonlocal furthest
            if self.n > furthest:
                furthest = int(self.n)
                tell(furthest)

    return Meter


def _explain(repo: str, error: Exception) -> str:
    """What has gone wrong, and the remedy."""
    errors = _library("errors")
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is for those who accept its terms on the Hub and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hub has no repository {repo}, or it is private and HF_TOKEN is not set"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "downloads are turned off by HF_HUB_OFFLINE; unset it to download"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{repo} does not fit on the disk; HF_HOME names another place for downloads"
    first = next(iter(str(error).splitlines()), "")
    return (
        f"{repo} cannot be downloaded ({type(error).__name__}: {first}); check the network, "
        "or copy the Hub's cache folder from a machine that has it"
    )
