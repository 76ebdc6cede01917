"""Kokoro's model and voices, read from files into host memory for all workers to share."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from voicepool.engines.kokoro.library import library, quiet
from voicepool.errors import EngineUnavailable

_LEFT_OUT = (".norm.weight", ".norm.bias")
"""Endings of weights that the published checkpoint lacks, as StyleTTS2's does: they stay one and
zero (https://github.com/hexgrad/kokoro/issues/175)."""
_RENAMED = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
"""Endings of a normed weight as newer versions of torch write them -> as Kokoro has them."""


def load_model(config: Path, weights: Path) -> Any:
    """A `kokoro.KModel` on the CPU, ready to speak. Raises EngineUnavailable.

    Nothing writes to its memory again, so forks share it: weight normalisation, which computes
    weights anew at every call, is folded into them (330 MB instead of 570), and there are no
    gradients. No file is mapped afterwards: one that is replaced under a running server does harm
    to nobody.
    """
    torch = library("torch", "torch")
    kokoro = library("kokoro", "kokoro")
    with quiet(), _unusable(config):
        settings = json.loads(config.read_text(encoding="utf-8"))
        # A checkpoint with gaps would be filled up with noise, and KModel would not say so
        # (https://github.com/hexgrad/kokoro/issues/368): it gets an empty one, and we fill it.
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        model = kokoro.KModel(repo_id=str(config.parent), config=settings, model=nothing)
    with _unusable(weights):
        checkpoint = _read(torch, weights)
        for name, part in model.named_children():
            _fill(part, checkpoint[name])
            fold(torch, part)
    return model.eval().requires_grad_(False)


def load_voice(path: Path, model: Any) -> Any:
    """A voice: a tensor (n, 1, 256), one style for each number of phonemes.

    Raises EngineUnavailable.
    """
    torch = library("torch", "torch")
    style = 2 * int(model.predictor.text_encoder.sty_dim)
    with _unusable(path):
        voice = _read(torch, path).to(torch.float32).clone()
        if voice.dim() != 3 or voice.shape[0] < 1 or voice.shape[1:] != (1, style):
            raise ValueError(f"shape {tuple(voice.shape)} instead of (510, 1, {style})")
    return voice


def fold(torch: Any, part: Any) -> None:
    """Make normed weights plain ones, in both of torch's ways of norming them."""
    for module in part.modules():
        if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
        elif hasattr(module, "weight_g"):
            torch.nn.utils.remove_weight_norm(module)


def _read(torch: Any, path: Path) -> Any:
    """Tensors whose memory is the file's until they are copied; code in the file is not run."""
    return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)


def _fill(part: Any, state: Mapping[str, Any]) -> None:
    """Raises ValueError where weights are missing, RuntimeError where their shapes are wrong."""
    wanted = part.state_dict().keys()
    missing, _ = part.load_state_dict(
        {_wanted_name(name, wanted): tensor for name, tensor in state.items()}, strict=False
    )
    lost = [name for name in missing if not name.endswith(_LEFT_OUT)]
    if lost:
        raise ValueError(f"it lacks {lost[0]} and {len(lost) - 1} more weights of this model")


def _wanted_name(name: str, wanted: Any) -> str:
    name = name.removeprefix("module.")  # as trained on several GPUs
    if name in wanted:
        return name
    for ending, ours in _RENAMED.items():
        if name.endswith(ending):
            return name.removesuffix(ending) + ours
    return name


@contextmanager
def _unusable(path: Path) -> Iterator[None]:
    """Say of what is wrong with a file which one it is. Libraries raise all kinds of errors."""
    try:
        yield
    except EngineUnavailable:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EngineUnavailable(
            f"kokoro cannot use {path} ({reason}); it is damaged or belongs to another model: "
            "replace it, or delete it and run: voicepool prefetch"
        ) from error
