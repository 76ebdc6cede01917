# ruff: noqa: RUF001 - phonemes
"""From text to phonemes: what is spoken, in which portions, and which phonemes are whose."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.models  # noqa: F401 - before any library that knows the hub
from voicepool.engines.kokoro import g2p, languages
from voicepool.engines.kokoro.align import share_out
from voicepool.engines.kokoro.g2p import Word
from voicepool.engines.kokoro.library import library, quiet
from voicepool.engines.kokoro.text import LONGEST_PORTION, once, portions, tokens
from voicepool.errors import ConfigError, EngineUnavailable

ENGLISH = languages.LANGUAGES["a"]


@pytest.fixture(scope="module")
def english() -> g2p.Pronouncer:
    return g2p.build(ENGLISH, "espeak")


def said(words: Sequence[Word]) -> str:
    return "".join(word.phonemes for word in words).strip()


def spelt(text: str, words: Sequence[Word]) -> list[str]:
    return [text[word.start : word.end] for word in words]


# --- what is spoken --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", " ", "...", "\n\t", "\x00\x01", "?!", "\ud800", "😀 👍🏽", "你好，世界", "—", "* * *"],
)
def test_nothing_to_say_is_no_portion(text: str) -> None:
    assert list(portions(text, ENGLISH.scripts)) == []


def test_what_cannot_be_said_leaves_blanks() -> None:
    text = "Hi 😀 there,\x07 naïve 你好 π\u200d 20°C ❤️!"
    (portion,) = portions(text, ENGLISH.scripts)
    assert portion.text == "Hi   there,  naïve    π  20°C   !"
    assert len(portion.text) == len(text)


def test_joiners_belong_to_hindi_words() -> None:
    text = "क्\u200dष 😀"
    (portion,) = portions(text, languages.LANGUAGES["h"].scripts)
    assert portion.text == "क्\u200dष  "


def test_long_texts_are_cut_where_they_pause() -> None:
    text = "This is one, and it is long. " * 40 + "word " * 200 + "x" * 1000
    found = list(portions(text, ENGLISH.scripts))
    assert max(len(portion.text) for portion in found) <= LONGEST_PORTION
    assert found[0].text.endswith("long.")
    assert any(portion.text.endswith("word") for portion in found)


@given(st.text(max_size=1500))
def test_portions_cover_the_text(text: str) -> None:
    at = 0
    for portion in portions(text, ENGLISH.scripts):
        assert portion.start >= at
        at = portion.start + len(portion.text)
        assert 0 < len(portion.text) <= LONGEST_PORTION
        for ours, given_ in zip(portion.text, text[portion.start : at], strict=True):
            assert ours in (given_, " ")
    assert at <= len(text)


def test_words_are_parted_from_their_marks() -> None:
    parted = [
        (token.before, token.core, token.after) for token in tokens("“Oh…”, he (said) - $5.20!!")
    ]
    assert parted == [
        ("“", "Oh", "…”,"),
        ("", "he", ""),
        ("(", "said", ")"),
        ("—", "", ""),
        ("", "$5.20", "!"),
    ]


def test_a_row_of_marks_is_one() -> None:
    assert once("nˈO!!!, jˈɛs……, zˈuu") == "nˈO!, jˈɛs…, zˈuu"


# --- espeak's rules --------------------------------------------------------------------------


def test_english_is_written_as_the_model_has_learnt_it(english: g2p.Pronouncer) -> None:
    words = english.pronounce("Hello, world! It's a better day.")
    assert said(words) == "həlˈO, wˈɜɹld! ɪts ɐ bˈɛTəɹ dˈA.".replace("ɐ", "ə")


def test_british_english_is_not_american(english: g2p.Pronouncer) -> None:
    british = g2p.build(languages.LANGUAGES["b"], "auto")
    assert said(british.pronounce("car")) == "kˈɑː"
    assert said(english.pronounce("car")) == "kˈɑɹ"


def test_numbers_are_read_as_a_whole(english: g2p.Pronouncer) -> None:
    text = "At 12:30, 3.14 of 56."
    words = english.pronounce(text)
    assert spelt(text, words) == ["At", "12:30,", "3.14", "of", "56."]
    assert [word.phonemes.strip() for word in words[1:3]] == [
        "twˈɛlv θˈɜɹTi,",
        "θɹˈi pYnt wˈʌn fˈɔɹ",
    ]


def test_words_that_are_spoken_as_one_share_it(english: g2p.Pronouncer) -> None:
    text = "in the world of 56 things"
    words = english.pronounce(text)
    assert spelt(text, words) == text.split()
    assert words[0].phonemes + words[1].phonemes == "ɪnðə "
    assert words[4].phonemes == "fˈɪfti sˈɪks "


def test_foreign_words_leave_no_flags(english: g2p.Pronouncer) -> None:
    assert not set("()") & set(said(english.pronounce("a raison d'être and Weltanschauung")))


def test_other_languages_have_their_own_marks() -> None:
    french = g2p.build(languages.LANGUAGES["f"], "auto")
    assert french.kind == "espeak"
    text = "« Oui ? » dit-elle."
    words = french.pronounce(text)
    assert said(words).startswith("“ wˈi?")
    hindi = g2p.build(languages.LANGUAGES["h"], "auto")
    assert said(hindi.pronounce("नमस्ते")) == "nəmˈʌsteː"


def test_marks_in_a_row_are_one_pause(english: g2p.Pronouncer) -> None:
    assert said(english.pronounce("well ... ! ! ! ? — yes")) == "wˈɛl… jˈɛs"


def test_an_endless_word_comes_in_parts_that_the_model_takes(english: g2p.Pronouncer) -> None:
    text = "no " + "7%" * 190 + " yes"
    words = english.pronounce(text)
    assert len(words) > 4
    assert max(len(word.phonemes) for word in words) <= 500
    assert [spelled for spelled in spelt(text, words) if spelled] == text.split()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=120))
def test_any_portion_can_be_pronounced(english: g2p.Pronouncer, text: str) -> None:
    for portion in portions(text, ENGLISH.scripts):
        words = english.pronounce(portion.text)
        at = 0
        for word in words:
            assert at <= word.start <= word.end <= len(portion.text)
            at = word.end
            assert len(word.phonemes) <= 510


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pronouncer = g2p.build(ENGLISH, "espeak")
    assert list(tmp_path.iterdir()) == []
    assert said(pronouncer.pronounce("still")) == "stˈɪl"


# --- which phonemes are whose ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoken", "alone", "shares"),
    [
        ("ðə kˈæt", ["ðə", "kˈæt"], ["ðə ", "kˈæt"]),
        ("fˈɪfti sˈɪks kˈæts", ["fˈɪfti sˈɪks", "kˈæts"], ["fˈɪfti sˈɪks ", "kˈæts"]),
        ("ɪnðə wˈɜld", ["ˈɪn", "ðə", "wˈɜld"], ["ɪn", "ðə ", "wˈɜld"]),
        ("ˌʌp ənd dˈaʊn", ["ˈʌp", "ˈænd", "dˈaʊn"], ["ˌʌp ", "ənd ", "dˈaʊn"]),
        ("wˈɛl nˈaʊ", ["wˈɛl", "", "nˈaʊ"], ["wˈɛl ", "", "nˈaʊ"]),
        ("", ["a", "b"], ["", ""]),
        ("əb", ["", ""], ["əb", ""]),
    ],
)
def test_words_are_found_in_what_was_spoken(
    spoken: str, alone: list[str], shares: list[str]
) -> None:
    assert share_out(spoken, alone) == shares


PHONEMES = st.text("abəˈ", max_size=6)


@given(
    st.lists(PHONEMES.filter(bool), max_size=12).map(" ".join),
    st.lists(st.lists(PHONEMES, max_size=3).map(" ".join), min_size=1, max_size=12),
)
def test_shares_are_what_was_spoken_cut_up(spoken: str, alone: list[str]) -> None:
    shares = share_out(spoken, alone)
    assert len(shares) == len(alone)
    assert "".join(shares) == spoken


@given(st.lists(st.lists(PHONEMES.filter(str.strip), min_size=1, max_size=3), min_size=1))
def test_words_that_sound_as_they_do_alone_are_found_exactly(alone: list[list[str]]) -> None:
    each = [" ".join(words) for words in alone]
    assert [share.rstrip() for share in share_out(" ".join(each), each)] == each


# --- misaki's lexicon ------------------------------------------------------------------------


@pytest.fixture
def tagger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed en_core_web_sm that knows no tags: words are looked up without them."""
    package = tmp_path / g2p.TAGGER
    package.mkdir()
    with quiet():
        nlp = library("spacy", "spacy").blank("en")
    nlp.meta.update(name="core_web_sm", version="3.8.0")
    nlp.to_disk(package / f"{g2p.TAGGER}-3.8.0")
    (package / "meta.json").write_text(json.dumps(nlp.meta))
    (package / "__init__.py").write_text(
        "from spacy.util import load_model_from_init_py\n"
        "__version__ = '3.8.0'\n"
        "def load(**overrides): return load_model_from_init_py(__file__, **overrides)\n"
    )
    info = tmp_path / f"{g2p.TAGGER}-3.8.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {g2p.TAGGER}\nVersion: 3.8.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, g2p.TAGGER, raising=False)
    return package


def test_the_lexicon_is_used_where_it_can_be(tagger: Path) -> None:
    lexicon = g2p.build(ENGLISH, "auto")
    assert lexicon.kind == "misaki"
    text = "Hello world  of 56 well-known zorblaxes, it's (fine)!"
    words = lexicon.pronounce(text)
    assert spelt(text, words) == text.split()
    by_word = dict(zip(text.split(), (word.phonemes.strip() for word in words), strict=True))
    assert by_word["56"] == "fˈɪfti sˈɪks"
    assert by_word["well-known"] == "wˌɛlnˈOn"
    assert by_word["zorblaxes,"].startswith("zˈɔɹblæks")  # unknown: by rule
    assert g2p.build(ENGLISH, "espeak").kind == "espeak"


def test_the_lexicon_does_not_read_marks_aloud(tagger: Path) -> None:
    text = "well * no - yes"
    words = g2p.build(ENGLISH, "misaki").pronounce(text)
    assert said(words) == "wˈɛl nˈO — jˈɛs"
    assert spelt(text, words) == ["well", "no", "yes"]


def test_markup_for_the_lexicon_is_not_obeyed(tagger: Path) -> None:
    lexicon = g2p.build(ENGLISH, "auto")
    assert "kˈOkəɹO" not in said(lexicon.pronounce("say [that](/kˈOkəɹO/) now"))


@pytest.mark.parametrize("text", ["one 1" + "0" * 399, "x" * 300, "²³ ½ ٣", "$1.2.3,4 -- 'n' ''"])
def test_what_the_lexicon_cannot_read_is_read_all_the_same(
    tagger: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    words = g2p.build(ENGLISH, "misaki").pronounce(text)
    assert said(words)
    assert capsys.readouterr().out == ""


def test_without_a_tagger_the_lexicon_is_not_asked_for_it(tmp_path: Path) -> None:
    assert not g2p.has_tagger()
    with pytest.raises(EngineUnavailable, match=r"en_core_web_sm; install it with: .*python.* -m"):
        g2p.build(ENGLISH, "misaki")
    with pytest.raises(ConfigError, match="knows English alone"):
        g2p.build(languages.LANGUAGES["f"], "misaki")


def test_a_package_that_spacy_does_not_know_is_no_tagger(tagger: Path) -> None:
    assert g2p.has_tagger()
    shutil.rmtree(next(tagger.parent.glob("*.dist-info")))
    assert not g2p.has_tagger()  # misaki would begin to download one


def test_a_damaged_tagger_is_named(tagger: Path) -> None:
    (tagger / f"{g2p.TAGGER}-3.8.0" / "config.cfg").unlink()
    with pytest.raises(EngineUnavailable, match="en_core_web_sm cannot be loaded"):
        g2p.build(ENGLISH, "auto")


# --- languages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"), [("a", "a"), ("en-us", "a"), ("EN_GB", "b"), ("fr", "f"), ("pt-br", "p")]
)
def test_languages_have_names(name: str, code: str) -> None:
    assert languages.find(name, "[tts]").code == code


def test_languages_that_are_not_spoken_are_refused() -> None:
    with pytest.raises(ConfigError, match="'en-uk' is not spoken; did you mean 'en-u"):
        languages.find("en-uk", "[tts]")
    with pytest.raises(ConfigError, match="'zf_xiaobei' speaks Mandarin, which is not supported"):
        languages.of_voice("zf_xiaobei", "[tts]")


@pytest.mark.parametrize(
    ("voice", "code"), [("af_heart", "a"), ("bm_lewis", "b"), ("hf_alpha", "h"), ("boss", "a")]
)
def test_a_voice_tells_its_language(voice: str, code: str) -> None:
    assert languages.of_voice(voice, "[tts]").code == code


def test_every_published_voice_speaks_a_language() -> None:
    for voice in languages.VOICES:
        assert languages.of_voice(voice, "[tts]").code == voice[0]
