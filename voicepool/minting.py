"""Client secrets over HTTP: from the request to the answer, without waiting for anything."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

from voicepool import ipc
from voicepool.access import Admitted
from voicepool.answers import Rejection, error_body, refuse, respond
from voicepool.bodies import Bodies
from voicepool.clientsecrets import PREFIX, ClientSecrets, Full, Grant
from voicepool.frontdoor import Refusal, Visitor
from voicepool.openaiapi import FORMS, BadOrder, Order, read_order, secret_made

RETRY_SECONDS: Final = 2
"""Retry-After where nobody can judge a session right now: the app is being started again."""

INVALID_SESSION: Final = "invalid_session"

OnAnswer = Callable[[ipc.Preview | None], None]


class Mint:
    """Reads the request, lets the app judge the session, keeps the secret, answers."""

    def __init__(
        self,
        preset: Callable[[bytes, str, OnAnswer], None],
        reply: Callable[[Visitor, bytes], None],
        *,
        timeout: float,
        most: int,
    ) -> None:
        """`preset` is the forker's; `reply` owns the visitor from then on. `timeout` and `most` are
        for requests that are incomplete."""
        self._preset = preset
        self._reply = reply
        self._secrets = ClientSecrets()
        self._bodies = Bodies(self._refuse, timeout=timeout, most=most)

    def redeem(self, secret: str) -> Grant | None:
        """What a client secret stands for; None where it is unknown or has expired."""
        return self._secrets.redeem(secret, time.time())

    def receive(self, visitor: Visitor, maker: Admitted) -> None:
        """Take a request for a secret from somebody who may make one; owns the visitor."""
        assert visitor.head is not None
        form = FORMS[visitor.head.path]
        self._bodies.read(visitor, lambda _, body: self._judge(visitor, maker, form, body))

    def close(self) -> None:
        self._bodies.close()

    def _judge(self, visitor: Visitor, maker: Admitted, form: str, body: bytes) -> None:
        try:
            order = read_order(form, body)
        except BadOrder as error:
            self._reply(visitor, _invalid(str(error), "invalid_value", error.param))
            return
        self._preset(
            order.session,
            form,
            lambda preview: self._finish(visitor, maker, form, order, preview),
        )

    def _finish(
        self,
        visitor: Visitor,
        maker: Admitted,
        form: str,
        order: Order,
        preview: ipc.Preview | None,
    ) -> None:
        if preview is None:
            message = "sessions cannot be set up at the moment; try again"
            headers = {"Retry-After": str(RETRY_SECONDS)}
            self._reply(visitor, refuse(503, message, "overloaded", headers))
        elif preview.code == ipc.FAULT:
            self._reply(visitor, refuse(500, preview.error, "server_error"))
        elif preview.code:
            self._reply(visitor, _invalid(preview.error, preview.code, _param(form, preview)))
        elif preview.error:
            self._reply(visitor, refuse(404, preview.error, "not_found"))
        else:
            self._reply(visitor, self._issue(maker, form, order, preview))

    def _issue(self, maker: Admitted, form: str, order: Order, preview: ipc.Preview) -> bytes:
        now = time.time()
        expires_at = int(now) + order.seconds
        secret = PREFIX + secrets.token_hex(24)
        try:
            grant = Grant(expires_at, maker.identity, maker.key, preview.stored)
            self._secrets.add(secret, grant, now)
        except Full as full:
            return refuse(
                429,
                f"too many client secrets are in force; try again in {full.retry_after} s",
                "rate_limit_exceeded",
                {"Retry-After": str(full.retry_after)},
            )
        return secret_made(form, secret, expires_at, preview.shown)

    def _refuse(self, visitor: Visitor, refusal: Refusal) -> None:
        self._reply(visitor, refuse(*refusal))


def _param(form: str, preview: ipc.Preview) -> str | None:
    """Where the fault is, as the request has it: the beta dialect's session is the whole body."""
    if preview.param is None or form == "realtime":
        return preview.param
    return preview.param.removeprefix("session").removeprefix(".") or None


def _invalid(message: str, code: str, param: str | None) -> Rejection:
    """Counted as INVALID_SESSION: its codes are the app's words, and as many as it likes."""
    response = respond(400, error_body(message, code, param=param))
    return Rejection.of(response, 400, INVALID_SESSION)
