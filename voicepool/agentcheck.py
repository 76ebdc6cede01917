"""The agent-check of HAProxy: whether a balancer shall send callers here.

Whoever connects to the agent port gets one line and the end of the connection: `up ready`, or
`drain`, which keeps new callers away and leaves the calls in progress alone (HAProxy Configuration
Manual, "agent-check"). Never `down`: that the server is alive is for the health check to find out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from voicepool.frontdoor import Farewells
from voicepool.listener import Acceptor, listen

log = logging.getLogger("voicepool.agentcheck")

READY: Final = b"up ready\n"
DRAIN: Final = b"drain\n"


class AgentPortTaken(OSError):
    """The agent port, not the callers' port, cannot be bound."""


def listen_for_agents(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises AgentPortTaken, and ConfigError as `listen` does."""
    try:
        listener = listen(host, port)
    except OSError as error:
        raise AgentPortTaken(error.errno, error.strerror) from error
    # Agents wait for us to speak; deferred, they would be accepted a second late.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
    return listener


class AgentCheck:
    """Answers on the agent port. Make it on the running event loop."""

    def __init__(self, listener: socket.socket, inviting: Callable[[], bool]) -> None:
        """Owns `listener`; `inviting`: whether callers are welcome. It is asked each time."""
        self._inviting = inviting
        self._acceptor = Acceptor(listener)
        # Its own: a crowd here shall not push out callers who read their refusals.
        self._farewells = Farewells(asyncio.get_running_loop(), self._acceptor.rearm)
        self._told = b""

    def open(self) -> None:
        """Begin to answer."""
        self._acceptor.open(self._answer)

    async def close(self) -> None:
        """Stop answering. A balancer takes silence for no change."""
        await self._acceptor.close()
        await self._farewells.close(0)

    def _answer(self, sock: socket.socket, address: tuple[str, int]) -> None:
        answer = READY if self._inviting() else DRAIN
        if answer != self._told:
            self._told = answer
            log.info("agent answer changed", extra={"answer": answer.decode().strip()})
        try:
            sock.send(answer)  # into an empty buffer: it takes a line at once, or is broken
        except OSError:
            sock.close()
        else:
            # Some balancers send a word first; closed with that unread, the answer could be lost.
            self._farewells.see_off(sock)
