"""Conversion of weights to 8 bits, against CTranslate2's own."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.models import whisper
from voicepool.engines.faster_whisper import weights
from voicepool.engines.faster_whisper.weights import UnknownFormat


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the embeddings aliased, as published models have them."""
    return whisper.make(tmp_path_factory.mktemp("whisper"), text=None)


def converted(source: Path) -> bytes:
    memory = weights.to_int8(source)
    assert memory is not None
    try:
        return Path(f"/proc/self/fd/{memory}").read_bytes()
    finally:
        os.close(memory)


def compute(folder: Path) -> tuple[NDArray[np.float32], float]:
    """What encoder and decoder make of noise, weights in 8 bits."""
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="int8")
    noise = np.random.default_rng(0).standard_normal((1, whisper.MELS, 3000)).astype(np.float32)
    encoded = model.encode(ctranslate2.StorageView.from_array(noise))
    prompt = [["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]]
    said = model.generate(encoded, prompt, beam_size=1, max_length=9, return_scores=True)
    return np.array(encoded), said[0].scores[0]


def test_the_converted_model_computes_what_the_library_would(model: Path, tmp_path: Path) -> None:
    for path in model.iterdir():
        if path.name != "model.bin":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model.bin").write_bytes(converted(model / "model.bin"))
    ours, theirs = compute(tmp_path), compute(model)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1] == theirs[1]


def test_what_is_in_8_bits_is_left_alone(tmp_path: Path) -> None:
    source = whisper.make(tmp_path, quantization="int8") / "model.bin"
    assert weights.to_int8(source) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\6\0",
        struct.pack("<I", 7) + bytes(100),
        struct.pack("<IH", 6, 5) + b"\xff\xfe\xfd\xfc\0",
    ],
    ids=["empty", "cut off", "another version", "no text"],
)
def test_other_files_are_recognised(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(UnknownFormat):
        weights.to_int8(path)


def test_a_file_that_ends_too_early_is_recognised(model: Path, tmp_path: Path) -> None:
    content = (model / "model.bin").read_bytes()
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for length in range(4, len(content) - 1000, len(content) // 20):
        path = tmp_path / "model.bin"
        path.write_bytes(content[:length])
        with pytest.raises(UnknownFormat):
            weights.to_int8(path)
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208
