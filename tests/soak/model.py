"""`python -m tests.soak.model PORT`: the stand-in of a model server, to be killed and stopped."""

from __future__ import annotations

import signal
import sys
from typing import Final

from tests.llm_server import Script
from tests.openai_server import OpenAIServer

NAME: Final = "soak"
REPLY: Final = "All is going very well here, as ever. Ask me again whenever you like."
LONG: Final = " ".join(f"This is sentence number {n} of a very long story." for n in range(1, 30))
TOKEN_SECONDS: Final = 0.02
SLOTS: Final = 64


def main() -> None:
    script = Script(reply=REPLY, answers={"story": LONG}, token_seconds=TOKEN_SECONDS)
    server = OpenAIServer({NAME: script}, slots=SLOTS).start(int(sys.argv[1]))
    print(server.port, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
