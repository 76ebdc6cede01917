"""What the exceptions of OpenAI's client mean, and what to do about it."""

from __future__ import annotations

import openai

from voicepool.engines.chat.retrying import ServerFailed

_LONGEST_QUOTE = 300


class Failures:
    """Explains exceptions of requests to a server; `where` names it.

    `trial`: the requests hold nothing of a conversation, so what the server says may be quoted,
    without the `key` that they were made with.
    """

    def __init__(self, where: str, *, trial: bool = False, key: str = "") -> None:
        self._where = where
        self._trial = trial
        self._key = key

    def __call__(self, error: Exception) -> ServerFailed | None:
        match error:
            case openai.APITimeoutError() if not _while_connecting(error):
                return ServerFailed(
                    f"{self._where} was silent for too long; it may be loading its model, or have "
                    "more callers than it can serve"
                )
            case openai.APIConnectionError():
                return ServerFailed(
                    f"{self._where} does not answer, or broke off; start it, or correct "
                    "[llm] base_url",
                    again=True,
                )
            case openai.APIStatusError():
                return self._answered(error.status_code, error)
            case openai.APIError():  # in the middle of a stream
                return self._failed("in its reply", error, again=True)
            case ValueError() | TypeError() | AttributeError() | LookupError():
                # The client hands on whatever the server sent, of any type.
                return ServerFailed(f"{self._where} sent what is not the chat completions API")
        return None

    def _answered(self, status: int, error: openai.APIError) -> ServerFailed:
        if status in (401, 403):
            return ServerFailed(f"{self._where} refuses the key ({status}); set [llm] api_key")
        if 300 <= status < 400:
            return ServerFailed(
                f"{self._where} redirects ({status}), which is not followed; "
                "set [llm] base_url to where it leads"
            )
        if status == 404:
            return self._failed(
                "404: it has no such model, or [llm] base_url is wrong (most end in /v1)", error
            )
        return self._failed(str(status), error, again=status == 429 or status >= 500)

    def _failed(self, how: str, error: openai.APIError, *, again: bool = False) -> ServerFailed:
        said = ""
        if self._trial:
            quote = error.message.replace(self._key, "...") if self._key else error.message
            said = f": {quote[:_LONGEST_QUOTE]}"
        return ServerFailed(f"{self._where} failed ({how}){said}", again=again)


def _while_connecting(error: openai.APITimeoutError) -> bool:
    # The HTTP library below is httpx or httpx2, as the client's version has it.
    return type(error.__cause__).__name__ == "ConnectTimeout"


def is_too_long(error: openai.APIStatusError) -> bool:
    """Whether a server refused a prompt because it does not fit into the model's context."""
    said = f"{error.code} {error.type} {error.message}".lower()
    return error.status_code in (400, 413) and "context" in said
