"""Checkpoints of the Kokoro architecture (StyleTTS 2 with an iSTFTNet vocoder) with random weights.

They are laid out as the published one is: the same three kinds of files, weights under "module.",
and none for the instance norms (https://github.com/hexgrad/kokoro/issues/175). What they say is
noise, of the length that speech would have, at the cost of speech.
"""

from __future__ import annotations

import atexit
import functools
import io
import json
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

VOICES = ("af_heart", "am_adam", "bf_emma", "ef_dora")


@dataclass(frozen=True, slots=True)
class Size:
    """What of the architecture is not fixed: the decoder's widths, its four blocks and its two
    stages of upsampling are written into kokoro's code, so that the smallest model has 59 million
    parameters."""

    layers: int
    """Of the encoder and of the durations' predictor."""
    bert_width: int
    bert_layers: int
    bert_inner: int
    kernels: Sequence[int]
    """Of the parallel convolutions in each of the vocoder's stages."""
    dilations: Sequence[int]
    frames: float
    """How long a phoneme is held, in frames of 25 ms."""
    dtype: torch.dtype


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "test": Size(1, 32, 1, 32, (3,), (1, 1, 1), frames=2, dtype=torch.float16),
        "full": Size(3, 768, 12, 2048, (3, 7, 11), (1, 3, 5), frames=3, dtype=torch.float32),
    }
)

SYMBOLS = (  # in an order of our own: the numbers mean nothing here
    ';:,.!?—…"()“” \u0303ʣʥʦʨᵝ\uab67AIOQSTWYᵊabcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳɲɴ'  # noqa: RUF001
    "øɸθœɹɾɻʁɽʂʃʈʧʊʋʌɣɤχʎʒʔˈˌːʰʲ↓→↗↘ᵻ"
)
"""The phonemes and marks that the published model has learnt."""


def make(folder: Path, size: str = "test", *, voices: Sequence[str] = VOICES) -> Path:
    """Write a model and its voices; returns `folder`. Always the same for the same arguments.

    "test" takes about a second, 120 MB, and a fifth of the time that its speech lasts; "full" has
    the published model's 82 million parameters in 330 MB.
    """
    from kokoro import KModel

    config = _config(SIZES[size])
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=()), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(82)
        model = KModel(repo_id="random", config=config, model=nothing)
        _set_durations(model, SIZES[size].frames, config["max_dur"])
        styles = {voice: torch.randn(510, 1, 2 * config["style_dim"]) * 0.15 for voice in voices}
    (folder / "voices").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    parts = {
        name: _published(part.state_dict(), SIZES[size].dtype)
        for name, part in model.named_children()
    }
    torch.save(parts, folder / "kokoro-v1_0.pth")
    for voice, style in styles.items():
        torch.save(style, folder / "voices" / f"{voice}.pt")
    return folder


@functools.cache
def shared() -> Path:
    """A "test" model for all tests of this process, which only read it; gone at its end."""
    folder = tempfile.TemporaryDirectory(prefix="voicepool-kokoro-")
    atexit.register(folder.cleanup)
    return make(Path(folder.name))


def _config(size: Size) -> dict[str, Any]:
    """As in the published config.json, but for what `size` says."""
    kernels = list(size.kernels)
    return {
        "istftnet": {
            "upsample_kernel_sizes": [20, 12],
            "upsample_rates": [10, 6],
            "gen_istft_hop_size": 5,
            "gen_istft_n_fft": 20,
            "resblock_dilation_sizes": [list(size.dilations)] * len(kernels),
            "resblock_kernel_sizes": kernels,
            "upsample_initial_channel": 512,
        },
        "dim_in": 64,
        "dropout": 0.2,
        "hidden_dim": 512,
        "max_conv_dim": 512,
        "max_dur": 50,
        "multispeaker": True,
        "n_layer": size.layers,
        "n_mels": 80,
        "n_token": 178,
        "style_dim": 128,
        "text_encoder_kernel_size": 5,
        "plbert": {
            "hidden_size": size.bert_width,
            "num_attention_heads": max(1, size.bert_width // 64),
            "intermediate_size": size.bert_inner,
            "max_position_embeddings": 512,
            "num_hidden_layers": size.bert_layers,
            "dropout": 0.1,
        },
        "vocab": {symbol: number for number, symbol in enumerate(SYMBOLS, 1)},
    }


def _set_durations(model: Any, frames: float, most: int) -> None:
    """Hold each phoneme about so long: it is the sum of `most` sigmoids, 25 with random weights."""
    layer = model.predictor.duration_proj.linear_layer
    share = frames / most
    layer.bias.fill_(math.log(share / (1 - share)))
    layer.weight.mul_(0.05)


def _published(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        f"module.{name}": tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if not name.endswith((".norm.weight", ".norm.bias"))
    }
