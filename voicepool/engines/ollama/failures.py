"""What the exceptions of Ollama's client mean, and what to do about it.

They come from three families: the builtin ConnectionError, raw httpx errors, and ResponseError,
whose status is -1 for an error in the middle of a stream.
"""

from __future__ import annotations

import re
from typing import Final

import httpx
import ollama

from voicepool.engines.chat.retrying import ServerFailed

_BUSY: Final = (429, 502, 503, 504)
_LONGEST_QUOTE = 300

_HARMLESS = re.compile(
    r"requires more system memory \([^()]{1,20}\) than is available \([^()]{1,20}\)"
    r"|model runner has unexpectedly stopped|llama runner process has terminated"
    r"|out of memory|CUDA error|timed out waiting for llama runner"
)
"""What Ollama says of itself; the rest of an error may quote the conversation."""


class Failures:
    """Explains exceptions of requests for `model` to the server at `url`.

    `trial`: the requests hold nothing of a conversation, so what Ollama says may be quoted.
    """

    def __init__(self, url: str, model: str, *, trial: bool = False) -> None:
        self._where = f"Ollama at {url}"
        self._model = model
        self._trial = trial

    def __call__(self, error: Exception) -> ServerFailed | None:
        match error:
            case ollama.ResponseError():
                return self._answered(error.status_code, str(error.error))
            case ConnectionError() | httpx.ConnectError() | httpx.ConnectTimeout():
                return ServerFailed(
                    f"{self._where} does not answer; start it with: ollama serve", again=True
                )
            case httpx.TimeoutException():
                return ServerFailed(
                    f"{self._where} was silent for too long; it may be loading {self._model}, or "
                    "have more callers than OLLAMA_NUM_PARALLEL lets it serve at once"
                )
            case httpx.HTTPError():
                return ServerFailed(f"{self._where} broke off the connection", again=True)
            case ValueError() | TypeError() | AttributeError():
                # What the client makes of a line that is no JSON, or is another object.
                return ServerFailed(f"{self._where} sent what is not Ollama's protocol")
        return None

    def _answered(self, status: int, said: str) -> ServerFailed:
        if "does not support tools" in said:
            return ServerFailed(
                f"{self._model} cannot call tools; set [llm] model to one that can, such as qwen3"
            )
        if "does not support thinking" in said:
            return ServerFailed(f"{self._model} cannot think; set [llm] think = false")
        if status == 404:
            return ServerFailed(
                f"{self._where} has no model {self._model!r}; get it with: "
                f"ollama pull {self._model}"
            )
        if status in _BUSY:
            return ServerFailed(
                f"{self._where} is busy ({status}); let it serve more callers at once with "
                "OLLAMA_NUM_PARALLEL",
                again=True,
            )
        if 300 <= status < 400:
            return ServerFailed(
                f"{self._where} redirects ({status}), which is not followed; "
                "set [llm] host to where it leads"
            )
        if status in (401, 403):
            return ServerFailed(f"{self._where} refuses the request ({status})")
        kind = "in its reply" if status == -1 else str(status)
        again = status == -1 or status >= 500
        return ServerFailed(f"{self._where} failed ({kind}){self._quoted(said)}", again=again)

    def _quoted(self, said: str) -> str:
        if self._trial:
            return f": {said[:_LONGEST_QUOTE]}"
        harmless = _HARMLESS.search(said)
        return f": {harmless[0]}" if harmless else ""
