"""The languages that Kokoro-82M v1.0 speaks, and the voices that were published for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from voicepool.engines.options import nearest
from voicepool.errors import ConfigError

_LATIN = frozenset({"LATIN", "GREEK", "FEMININE", "MASCULINE"})  # the last two: 1ª, 1º


@dataclass(frozen=True, slots=True)
class Language:
    code: str
    """Kokoro's letter: the first of its voices' names."""
    espeak: str
    """espeak's name of it."""
    iso: str
    """ISO 639-1, with a region where it matters."""
    scripts: frozenset[str] = _LATIN
    """First words of the Unicode names of its letters."""

    @property
    def english(self) -> bool:
        return self.code in "ab"


LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        "a": Language("a", "en-us", "en-US"),
        "b": Language("b", "en-gb", "en-GB"),
        "e": Language("e", "es", "es"),
        "f": Language("f", "fr-fr", "fr"),
        "h": Language("h", "hi", "hi", _LATIN | {"DEVANAGARI"}),
        "i": Language("i", "it", "it"),
        "p": Language("p", "pt-br", "pt-BR"),
    }
)
_NAMES = {language.espeak: code for code, language in LANGUAGES.items()} | {
    "en": "a",
    "fr": "f",
    "pt": "p",
}
_DICTIONARIES = {"j": "Japanese", "z": "Mandarin"}

_PUBLISHED = """
    af_heart af_alloy af_aoede af_bella af_jessica af_kore af_nicole af_nova af_river af_sarah
    af_sky am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa
    bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis
    ef_dora em_alex em_santa ff_siwis hf_alpha hf_beta hm_omega hm_psi if_sara im_nicola
    pf_dora pm_alex pm_santa
"""
VOICES = tuple(_PUBLISHED.split())
"""The published voices of these languages (VOICES.md of the model's repository), best first."""


def find(name: str, setting: str) -> Language:
    """The language of a code ("a") or name ("en-us", "fr"). Raises ConfigError."""
    code = name if name in LANGUAGES else _NAMES.get(name.lower().replace("_", "-"), "")
    if code:
        return LANGUAGES[code]
    raise ConfigError(f"{setting}: language {name!r} is not spoken; {nearest(name, _NAMES)}")


def of_voice(voice: str, setting: str) -> Language:
    """The language that a voice was made for, by the first letter of its name.

    A voice of one's own whose name says nothing speaks American English. Raises ConfigError for
    one whose language needs dictionaries that are downloaded apart.
    """
    letter = voice[:1] if voice[2:3] == "_" else ""
    if letter in _DICTIONARIES:
        raise ConfigError(
            f"{setting}: voice {voice!r} speaks {_DICTIONARIES[letter]}, which is not supported; "
            f"choose another, for example {VOICES[0]!r}, or set language = to what it shall speak"
        )
    return LANGUAGES.get(letter, LANGUAGES["a"])
