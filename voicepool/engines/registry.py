"""Which engines there are, and which ones a configuration names.

Nothing here imports an engine or its libraries until `build`; the supervisor may call
`resolve_profile` for its banner.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from voicepool.config import STAGES
from voicepool.engines.options import nearest
from voicepool.errors import ConfigError

if TYPE_CHECKING:
    from voicepool.engines.base import Engines

Table = Mapping[str, Any]
"""One stage's settings: `engine` names it, the rest are its options."""

ENGINES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "vad": {"silero": "voicepool.engines.silero"},
        "stt": {"pocketsphinx": "voicepool.engines.pocketsphinx"},
        "llm": {"phrasebook": "voicepool.engines.phrasebook.engine"},
        "tts": {"espeak": "voicepool.engines.espeak"},
    }
)
"""Stage -> engine -> the module whose `create(options)` makes it."""

PROFILES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "embedded": {
            "vad": "silero",
            "stt": "pocketsphinx",
            "llm": "phrasebook",
            "tts": "espeak",
        },
    }
)
"""Profile -> the engine of each stage."""

AUTO = "auto"


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


def resolve_profile(name: str, tables: Mapping[str, Table]) -> Choice:
    """The engines of profile `name`, with the user's tables ([vad], [stt], [llm], [tts]) over it.

    Raises ConfigError for a profile, stage or engine that does not exist.
    """
    for stage in tables:
        if stage not in STAGES:
            raise ConfigError(f"[{stage}] is not a stage of speech; {nearest(stage, STAGES)}")
    profile, why = _auto() if name == AUTO else (name, "configured")
    if profile not in PROFILES:
        raise ConfigError(f"profile {name!r} does not exist; {nearest(name, [AUTO, *PROFILES])}")
    complete = {stage: {"engine": PROFILES[profile][stage]} for stage in STAGES}
    for stage, table in tables.items():
        complete[stage] |= table
    for stage, table in complete.items():
        engine = table["engine"]
        if not isinstance(engine, str) or engine not in ENGINES[stage]:
            raise ConfigError(
                f"[{stage}] engine = {engine!r} does not exist; "
                f"{nearest(str(engine), ENGINES[stage])}"
            )
    _share_phrasebook(complete)
    return Choice(profile, why, complete)


def _auto() -> tuple[str, str]:
    return "embedded", "it is the only profile of this version; it needs no GPU and no download"


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

    made = {stage: _create(stage, choice.tables[stage]) for stage in STAGES}
    return Engines(**made)


def _create(stage: str, table: Table) -> Any:
    module = importlib.import_module(ENGINES[stage][table["engine"]])
    return module.create({key: value for key, value in table.items() if key != "engine"})
