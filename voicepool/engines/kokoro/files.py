"""Which files Kokoro needs, where they are on this host, and how they get there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voicepool.engines import hub
from voicepool.engines import options as engine_options
from voicepool.engines.kokoro.languages import VOICES
from voicepool.errors import ConfigError, EngineUnavailable

REPOSITORY = "hexgrad/Kokoro-82M"
CONFIG, WEIGHTS = "config.json", "kokoro-v1_0.pth"
_WHERE = "[tts] engine kokoro"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_LOOKS_LIKE_A_PATH = re.compile(r"[/.~]")


@dataclass(frozen=True, slots=True)
class Files:
    """All that is needed, and there."""

    config: Path
    weights: Path
    voices: Mapping[str, Path]
    """All that are there, those asked for among them."""


class Source:
    """Where a model's files are: a folder, or a repository of the hub and its local copies."""

    def __init__(self, model: str) -> None:
        """Raises ConfigError for what is neither."""
        path = Path(model).expanduser()
        self.folder = path if path.is_dir() else None
        self.repository = "" if self.folder else model
        if self.folder is None and _LOOKS_LIKE_A_PATH.match(model):
            raise ConfigError(f"{_WHERE}: model = {model!r}: there is no such folder")
        if self.folder is None and not _REPOSITORY.fullmatch(model):
            raise ConfigError(
                f"{_WHERE}: model = {model!r} is neither a folder nor a repository of the hub, "
                f"such as {REPOSITORY!r}"
            )

    def locate(self, wanted: Sequence[str]) -> Files:
        """The files of the model with these voices, without any use of the network.

        Raises EngineUnavailable that names what is missing, ConfigError for voices there are not.
        """
        present = self._present_voices()
        self._check_voices(wanted, present)
        found = {name: self._find(name) for name in (CONFIG, WEIGHTS)}
        missing = [name for name, path in found.items() if path is None]
        missing += [_voice_file(voice) for voice in wanted if voice not in present]
        config, weights = found[CONFIG], found[WEIGHTS]
        if missing or config is None or weights is None:
            raise EngineUnavailable(self._describe(missing))
        return Files(config, weights, present)

    def fetch(self, wanted: Sequence[str], report: hub.Report) -> None:
        """Download what `locate` would miss; a folder has to be complete already.

        Raises EngineUnavailable.
        """
        if self.folder is None:
            needed = [CONFIG, WEIGHTS, *map(_voice_file, wanted)]
            hub.fetch(self.repository, needed, report, label=f"kokoro {self.repository}")
        self.locate(wanted)

    def _find(self, name: str) -> Path | None:
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        return hub.find(self.repository, name)

    def _present_voices(self) -> dict[str, Path]:
        folder = self.folder
        if folder is None:
            config = self._find(CONFIG)
            if config is None:
                return {}
            folder = config.parent
        found = [*folder.glob("*.pt"), *folder.glob("voices/*.pt")]
        return {path.stem: path for path in sorted(found, key=lambda it: it.stem)}

    def _check_voices(self, wanted: Iterable[str], present: Mapping[str, Path]) -> None:
        known: Iterable[str] = present
        if self.repository == REPOSITORY:
            known = {*present, *VOICES}
        elif self.repository:
            return  # what it has, only the hub could tell
        for voice in wanted:
            if known and voice not in known:
                raise ConfigError(
                    f"{_WHERE}: voice {voice!r} does not exist; "
                    f"{engine_options.nearest(voice, known)}"
                )

    def _describe(self, missing: Sequence[str]) -> str:
        names = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        verb = "are" if missing[1:] else "is"
        if self.folder is not None:
            return (
                f"kokoro: {names} {verb} missing in {self.folder}; copy what is missing there, or "
                f"remove `model` from [tts] to use {REPOSITORY}"
            )
        return (
            f"kokoro: {names} of {self.repository} {verb} not on this machine; "
            "download what is missing with: voicepool prefetch"
        )


def _voice_file(voice: str) -> str:
    return f"voices/{voice}.pt"
