"""Voice activity by Silero."""

from __future__ import annotations

import numpy as np
import pytest

from tests.speech import noisy, pieces, say, silence
from voicepool.engines import silero
from voicepool.engines.base import Samples


@pytest.fixture(scope="module")
def detector() -> silero.SileroDetector:
    detector = silero.create({})
    detector.preload()
    detector.load("host")
    detector.warm_up()
    return detector


def probabilities(stream: silero.SileroStream, sound: Samples) -> list[float]:
    windows = pieces(sound, milliseconds=32)
    return [stream.push(window) for window in windows if len(window) == silero.WINDOW]


def test_speech_is_told_from_silence(detector: silero.SileroDetector) -> None:
    spoken = say("please count up to twenty")
    sound = noisy(np.concatenate([silence(0.7), spoken, silence(0.7)]), seed=1)
    found = probabilities(detector.stream(), sound)
    assert all(0 <= probability <= 1 for probability in found)
    assert max(found[:25]) < 0.3
    assert np.mean(np.array(found[35 : 30 + len(spoken) // 512]) > 0.5) > 0.8
    assert max(found[-10:]) < 0.3


def test_streams_do_not_share_state(detector: silero.SileroDetector) -> None:
    sound = noisy(say("what is your name"), seed=2)
    alone = probabilities(detector.stream(), sound)
    first, second = detector.stream(), detector.stream()
    rng = np.random.default_rng(3)
    mixed = []
    for window in pieces(sound, milliseconds=32):
        if len(window) == silero.WINDOW:
            second.push(rng.uniform(-1, 1, silero.WINDOW).astype(np.float32))
            mixed.append(first.push(window))
    assert mixed == alone


def test_reset_forgets_the_past(detector: silero.SileroDetector) -> None:
    sound = noisy(say("what is your name"), seed=4)
    stream = detector.stream()
    once = probabilities(stream, sound)
    stream.reset()
    assert probabilities(stream, sound) == once


def test_broken_samples_do_not_stay_in_the_state(detector: silero.SileroDetector) -> None:
    stream = detector.stream()
    for value in (np.nan, np.inf, -np.inf, 1e30):
        assert 0 <= stream.push(np.full(silero.WINDOW, value, np.float32)) <= 1
    stream.reset()
    assert max(probabilities(stream, noisy(silence(0.5), seed=5))) < 0.3


@pytest.mark.parametrize("shape", [(0,), (511,), (513,), (512, 1)])
def test_other_windows_are_refused(detector: silero.SileroDetector, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a window has shape"):
        detector.stream().push(np.zeros(shape, np.float32))
