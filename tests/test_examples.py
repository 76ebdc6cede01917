"""The recordings that come along: made by our own voice, the same each time, and understood."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import soxr

from tests.speech import pieces
from voicepool import rehearsal
from voicepool.engines import pocketsphinx, silero
from voicepool.engines.base import INPUT_RATE, Samples

ROOT = Path(__file__).parents[1]
HELLO = ROOT / "examples" / "hello.wav"


def read(path: Path) -> Samples:
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (1, 2, 24_000)
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return pcm.astype(np.float32) / np.float32(32768)


def make(folder: Path) -> Path:
    folder.mkdir()
    script = ROOT / "scripts" / "make-examples"
    subprocess.run([sys.executable, script, folder], check=True, timeout=60, cwd=ROOT)
    return folder


def test_the_recordings_are_made_the_same_each_time(tmp_path: Path) -> None:
    once, again = make(tmp_path / "a"), make(tmp_path / "b")
    for kept in (HELLO, ROOT / "voicepool" / rehearsal.RECORDING):
        assert (once / kept.name).read_bytes() == (again / kept.name).read_bytes()
        # Resamplers may round otherwise on another processor: one step of 16 bits is allowed.
        ours, theirs = read(once / kept.name), read(kept)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1.5 / 32768


def utterances(sound: Samples) -> list[Samples]:
    """What a turn detector would cut out: speech, and some quiet on either side."""
    detector = silero.create({}).stream()
    windows = [window for window in pieces(sound, milliseconds=32) if len(window) == 512]
    spoken = np.array([detector.push(window) > 0.5 for window in windows])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], spoken.astype(int), [0]])))
    turns: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if turns and start - turns[-1][1] < 15:
            turns[-1] = (turns[-1][0], end)
        else:
            turns.append((start, end))
    return [sound[max(0, start - 9) * 512 : (end + 15) * 512] for start, end in turns]


def test_every_utterance_of_the_example_is_understood() -> None:
    sound: Samples = soxr.resample(read(HELLO), 24_000, INPUT_RATE)
    recognizer = pocketsphinx.create({})
    recognizer.preload()
    understood = []
    for utterance in utterances(sound):
        stream = recognizer.stream()
        stream.feed(utterance)
        understood.append(stream.finish().text)
    assert understood == ["hello there computer", "what is the capital of norway"]
