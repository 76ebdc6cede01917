"""Profiles, engines and their options."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from voicepool.config import STAGES
from voicepool.engines import base, espeak, ollama, options, pocketsphinx, registry, silero
from voicepool.engines import openai_chat as openai
from voicepool.engines.faster_whisper import engine as faster_whisper
from voicepool.engines.kokoro import engine as kokoro
from voicepool.engines.phrasebook import engine as phrasebook
from voicepool.errors import ConfigError, EngineUnavailable


@pytest.mark.parametrize(
    ("gpu", "missing", "profile", "words"),
    [
        ("", [], "embedded", "no CUDA device is visible; --profile cpu"),
        ("", ["kokoro"], "embedded", r"pip install 'voicepool\[models\]', then --profile cpu"),
        ("A10G", ["torch", "kokoro"], "embedded", "A10G, but not torch, kokoro: .*pip install"),
        ("A10G", [], "cuda", "A10G; --profile embedded"),
    ],
)
def test_auto_takes_the_best_and_says_why(
    monkeypatch: pytest.MonkeyPatch, gpu: str, missing: list[str], profile: str, words: str
) -> None:
    monkeypatch.setattr(registry, "missing_packages", lambda: missing)
    choice = registry.resolve_profile("auto", {}, gpu=gpu)
    assert choice.profile == profile
    assert re.search(words, choice.why)


def test_missing_packages_are_those_that_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.missing_packages() == []
    monkeypatch.setattr(registry, "MODEL_PACKAGES", {"voicepool_has_no_such_module": "no-such"})
    assert registry.missing_packages() == ["no-such"]


def test_embedded_needs_no_model() -> None:
    choice = registry.resolve_profile("embedded", {})
    assert choice.engines == {
        "vad": "silero",
        "stt": "pocketsphinx",
        "llm": "phrasebook",
        "tts": "espeak",
    }


def test_profiles_name_engines_that_exist() -> None:
    for profile in registry.PROFILES.values():
        assert set(profile) == set(STAGES)
        for stage, table in profile.items():
            assert table["engine"] in registry.ENGINES[stage]


def test_a_users_table_is_laid_over_the_profiles() -> None:
    choice = registry.resolve_profile("cpu", {"stt": {"beam_size": 5}, "tts": {"engine": "espeak"}})
    assert choice.tables["stt"] == {
        "engine": "faster_whisper",
        "model": "base",
        "device": "cpu",
        "beam_size": 5,
    }
    assert choice.tables["tts"] == {"engine": "espeak"}, "another engine's options are not its own"


def test_build_makes_every_engine() -> None:
    engines = registry.build(registry.resolve_profile("embedded", {"tts": {"rate": 150}}))
    names = [engine.name for engine in (engines.vad, engines.stt, engines.llm, engines.tts)]
    assert names == ["silero", "pocketsphinx", "phrasebook", "espeak"]


@pytest.mark.parametrize(
    ("profile", "tables", "message"),
    [
        ("embeded", {}, "did you mean 'embedded'"),
        ("embedded", {"lm": {}}, "did you mean 'llm'"),
        ("embedded", {"tts": {"engine": "espeek"}}, "did you mean 'espeak'"),
        ("embedded", {"tts": {"engine": ["espeak"]}}, "does not exist"),
        ("embedded", {"tts": {"voise": "en"}}, r"\[tts\] engine espeak: .*did you mean 'voice'"),
        ("embedded", {"tts": {"rate": "fast"}}, "rate: expected `int`"),
        ("embedded", {"tts": {"rate": 1000}}, "rate: expected `int` <= 450"),
        ("embedded", {"vad": {"threshold": 1}}, "unknown option 'threshold'; it takes none"),
        ("embedded", {"llm": {"phrasebook": "/nowhere.toml"}}, "cannot be read"),
        ("embedded", {"stt": {"reject": 3}}, "reject: expected `bool`"),
    ],
)
def test_mistakes_name_the_remedy(
    profile: str, tables: Mapping[str, Mapping[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.build(registry.resolve_profile(profile, tables))


def test_the_recogniser_listens_for_the_assistants_phrases(tmp_path: Path) -> None:
    book = tmp_path / "my.toml"
    book.write_text('[[phrase]]\nid = "x"\nsay = "open the pod doors"\nreply = "No."')
    choice = registry.resolve_profile("embedded", {"llm": {"phrasebook": str(book)}})
    assert choice.tables["stt"]["phrasebook"] == str(book)


def test_tables_are_left_as_they_were() -> None:
    tables = {"llm": {"phrasebook": "a.toml"}, "stt": {}}
    registry.resolve_profile("embedded", tables)
    assert tables == {"llm": {"phrasebook": "a.toml"}, "stt": {}}


def test_engines_are_of_their_kinds() -> None:
    """A check for mypy: the registry itself is untyped between a module and its engine."""
    vad: list[base.VoiceActivityDetector] = [silero.create({})]
    stt: list[base.SpeechRecognizer] = [pocketsphinx.create({}), faster_whisper.create({})]
    llm: list[base.LanguageModel] = [phrasebook.create({}), ollama.create({}), openai.create({})]
    tts: list[base.SpeechSynthesizer] = [espeak.create({}), kokoro.create({})]
    assert {made.name for kind in (vad, stt, llm, tts) for made in kind} == {
        name for names in registry.ENGINES.values() for name in names
    }


def test_a_missing_package_names_the_command() -> None:
    with pytest.raises(EngineUnavailable, match=r"pip install 'voicepool\[embedded\]'"):
        options.require("voicepool_has_no_such_module", "no-such", "embedded")


def test_resolving_imports_no_engine() -> None:
    script = (
        "import sys; from voicepool.engines import registry; "
        "registry.resolve_profile('auto', {}); "
        "print([m for m in sys.modules if m.startswith(('numpy', 'pocketsphinx', 'pysilero')) "
        "or m.startswith('voicepool.engines.') and m.split('.')[2] not in ('options','registry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr
