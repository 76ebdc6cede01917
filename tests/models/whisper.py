"""CTranslate2 models of the Whisper architecture (https://arxiv.org/abs/2212.04356) that transcribe
whatever they hear to a given text.

Every layer is there, with random weights and the real cost, but the decoder's residual branches
add next to nothing. So what its final layer sees is the embedding of the last token alone, and the
output projection is made to map that to the next token of the script: a Markov chain from
`<|notimestamps|>` over the text to `<|endoftext|>`, whatever the sound and the prompt are.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ctranslate2.specs import WhisperSpec
from faster_whisper.tokenizer import _LANGUAGE_CODES as LANGUAGES
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Array = NDArray[np.float32]

TEXT = "What is the capital of Portugal?"


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of both the encoder and the decoder."""

    width: int
    layers: int
    heads: int


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "test": Size(width=64, layers=1, heads=1),  # as quick as a 30 s window allows
        "tiny": Size(width=384, layers=4, heads=6),
        "base": Size(width=512, layers=6, heads=8),
    }
)

MELS = 80
FRAMES = 1500
"""Of the encoder: 30 s, always."""
POSITIONS = 448
"""Of the decoder."""
TIMESTAMPS = 1501
END_OF_TEXT = 50257
"""As in OpenAI's multilingual vocabulary; one less in the English-only one."""


def make(
    folder: Path,
    size: str = "test",
    *,
    text: str | None = TEXT,
    language: str = "en",
    multilingual: bool = True,
    probability: float = 0.99,
    no_speech: float = 0.01,
    quantization: str = "float16",
) -> Path:
    """Make a model in `folder`, in the files of Systran's repositories; returns the folder.

    It gives each token of `text` with `probability`, and `no_speech` as the probability that there
    is none. `language` is what it detects. None as the text: what it says is random, and its
    embeddings serve as projection too, as in all published models. The weights are the same each
    time.
    """
    vocabulary = _Vocabulary(text or TEXT, multilingual, SIZES[size].width - 4)
    spec = _architecture(SIZES[size], len(vocabulary.tokens))
    if text is None:
        tied = _Random(SIZES[size].width)(len(vocabulary.tokens), SIZES[size].width)
        spec.decoder.embeddings.weight, spec.decoder.projection.weight = tied, tied.copy()
    else:
        _script(spec.decoder, vocabulary, language, probability, no_speech)
    spec.register_vocabulary(vocabulary.tokens)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = [vocabulary.id(f"<|{code}|>") for code in vocabulary.languages]
    spec.config.alignment_heads = [[SIZES[size].layers - 1, 0]]
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"feature_size": MELS, "n_fft": 400, "hop_length": 160, "chunk_length": 30})
    )
    return folder


class _Vocabulary:
    """Byte pairs in the place of Whisper's, its special tokens, and the script in unique tokens."""

    def __init__(self, text: str, multilingual: bool, most_tokens: int) -> None:
        self.languages = LANGUAGES[:99] if multilingual else ("en",)
        end = END_OF_TEXT if multilingual else END_OF_TEXT - 1
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        self._script = [_as_bytes(part) for part in _unique_parts(text, most_tokens)]
        rest = (part for part in self._script if part not in alphabet)
        pairs = itertools.product(alphabet, alphabet)
        merges = list(itertools.islice(pairs, end - len(alphabet) - len(self._script) - 1))
        names = [*alphabet, *("".join(pair) for pair in merges)]
        names += [part for part in rest if part not in set(names)]
        names += [f"unused {number}" for number in range(end - 1 - len(names))]
        # CTranslate2 takes a model for multilingual if its vocabulary has an empty token.
        names.append("" if multilingual else "unused")
        self.tokenizer = Tokenizer(
            models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=merges)
        )
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()
        self._add_special_tokens()
        ids: dict[str, int] = self.tokenizer.get_vocab()
        self.tokens = sorted(ids, key=ids.__getitem__)

    def _add_special_tokens(self) -> None:
        names = ["endoftext", "startoftranscript", *LANGUAGES[:99], "translate", "transcribe"]
        names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
        self.tokenizer.add_special_tokens(
            [AddedToken(f"<|{name}|>", special=True, normalized=False) for name in names]
        )
        times = (f"<|{number * 0.02:.2f}|>" for number in range(TIMESTAMPS))
        self.tokenizer.add_tokens([AddedToken(time, normalized=False) for time in times])

    def id(self, token: str) -> int:
        found: int | None = self.tokenizer.token_to_id(token)
        assert found is not None, token
        return found

    @property
    def script(self) -> list[int]:
        """What the model says, from the end of its prompt."""
        return [self.id(part) for part in self._script]


def _unique_parts(text: str, most: int) -> list[str]:
    """`text` in at most `most` parts that begin at words and of which no two are equal."""
    words = [f" {word}" for word in text.split()]
    assert words, "a model has to say something: its end must not come first"
    length = math.ceil(len(words) / most)
    while True:
        parts = ["".join(words[at : at + length]) for at in range(0, len(words), length)]
        if len(set(parts)) == len(parts):
            return parts
        length += 1


def _as_bytes(text: str) -> str:
    """`text` as byte-level vocabularies write it."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(mapped for mapped, _ in level.pre_tokenize_str(text))


def _architecture(size: Size, tokens: int) -> Any:
    """A whole Whisper of random weights, with no script yet."""
    spec = WhisperSpec(size.layers, size.heads, size.layers, size.heads)
    random = _Random(size.width)
    encoder, decoder = spec.encoder, spec.decoder
    for convolution, channels in ((encoder.conv1, MELS), (encoder.conv2, size.width)):
        convolution.weight = random(size.width, channels, 3)
        convolution.bias = random.zeros(size.width)
    encoder.position_encodings.encodings = random(FRAMES, size.width)
    random.norm(encoder.layer_norm)
    for layer in encoder.layer:
        random.attention(layer.self_attention)
        random.feed_forward(layer.ffn)
    decoder.embeddings.weight = random.zeros(tokens, size.width)
    decoder.projection.weight = random.zeros(tokens, size.width)
    decoder.position_encodings.encodings = random.zeros(POSITIONS, size.width)
    random.norm(decoder.layer_norm)
    for layer in decoder.layer:
        random.attention(layer.self_attention, _Random.FAINT)
        random.attention(layer.attention, _Random.FAINT)
        random.feed_forward(layer.ffn, _Random.FAINT)
    return spec


class _Random:
    """Fills layers of one width."""

    STRONG, FAINT = 0.02, 1e-5
    """Standard deviations of weights: as trained ones, or as good as nothing."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rng = np.random.default_rng(0)

    def __call__(self, *shape: int, scale: float = STRONG) -> Array:
        return self._rng.standard_normal(shape, np.float32) * np.float32(scale)

    def zeros(self, *shape: int) -> Array:
        return np.zeros(shape, np.float32)

    def norm(self, layer: Any) -> None:
        layer.gamma = np.ones(self._width, np.float32)
        layer.beta = self.zeros(self._width)

    def linear(self, layer: Any, inputs: int, outputs: int, scale: float = STRONG) -> None:
        layer.weight = self(outputs, inputs, scale=scale)
        layer.bias = self.zeros(outputs)

    def attention(self, layer: Any, scale: float = STRONG) -> None:
        """Self-attention has queries, keys and values in one projection, cross-attention two."""
        self.norm(layer.layer_norm)
        fused = (3,) if len(layer.linear) == 2 else (1, 2)
        for projection, parts in zip(layer.linear, fused, strict=False):
            self.linear(projection, self._width, parts * self._width)
        self.linear(layer.linear[-1], self._width, self._width, scale)

    def feed_forward(self, layer: Any, scale: float = STRONG) -> None:
        self.norm(layer.layer_norm)
        self.linear(layer.linear_0, self._width, 4 * self._width)
        self.linear(layer.linear_1, 4 * self._width, self._width, scale)


_RELUCTANCE = 20
"""Of a text to end, as a logit."""


def _script(
    decoder: Any, vocabulary: _Vocabulary, language: str, probability: float, no_speech: float
) -> None:
    """Make each token of the script lead to the next."""
    chain = [vocabulary.id("<|notimestamps|>"), *vocabulary.script, vocabulary.id("<|endoftext|>")]
    start = vocabulary.id("<|startoftranscript|>")
    embeddings, projection = decoder.embeddings.weight, decoder.projection.weight
    tokens, width = embeddings.shape
    directions = _directions(len(chain), width)
    embeddings[start] = directions[-1]
    projection[vocabulary.id("<|nospeech|>")] += _towards(directions[-1], no_speech, tokens)
    projection[vocabulary.id(f"<|{language}|>")] += _towards(directions[-1], 0.5, tokens)
    for (token, successor), direction in zip(itertools.pairwise(chain), directions, strict=False):
        embeddings[token] = direction
        projection[successor] += _towards(direction, probability, tokens)
    # Nowhere but after the last word may the text end: a beam search takes whatever ends early.
    bias = np.zeros(tokens, np.float32)
    bias[chain[-1]] = -_RELUCTANCE
    decoder.projection.bias = bias
    projection[chain[-1]] += directions[len(chain) - 2] * np.float32(_RELUCTANCE / math.sqrt(width))


def _directions(count: int, width: int) -> Array:
    """Orthogonal unit vectors of mean zero, which layer normalisation only makes longer."""
    rows = np.random.default_rng(1).standard_normal((count + 1, width))
    rows[0] = 1  # what the others are orthogonal to has their mean
    orthogonal, _ = np.linalg.qr(rows.T)
    return np.ascontiguousarray(orthogonal.T[1:], np.float32)


def _towards(direction: Array, probability: float, tokens: int) -> Array:
    """The weights that give a token `probability` after `direction`, all others being at zero."""
    logit = math.log(tokens * probability / (1 - probability))
    return direction * np.float32(logit / math.sqrt(len(direction)))
