"""From settings to a running server: sockets, runtime directory, and then the Supervisor.

Whatever fails on this way leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace

from voicepool import keysfile, linux, tlsfiles
from voicepool.agentcheck import listen_for_agents
from voicepool.config import Settings, check
from voicepool.errors import ExitCode
from voicepool.listener import listen, prepare
from voicepool.progress import Progress
from voicepool.reloader import Reread
from voicepool.rundir import RuntimeDir
from voicepool.supervisor import Supervisor
from voicepool.systemd import Inheritance

log = logging.getLogger("voicepool.supervisor")


async def supervise(
    settings: Settings,
    announce: Callable[[Supervisor, Progress], None],
    *,
    inherited: Inheritance | None = None,
    reread: Reread | None = None,
) -> ExitCode:
    """Run a server to its end; the exit code. `settings` are sealed (`keysfile.sealed`);
    `inherited`, `reread`: as Supervisor takes them.

    Raises OSError when the address cannot be bound or the runtime directory cannot be made, and
    ConfigError.
    """
    inherited = inherited or Inheritance()
    for line in keysfile.advice(settings):
        log.warning("advice", extra={"advice": line})
    if settings.tls_cert:
        # For the relay to read again: what is wrong with them is better said before anything runs.
        context = tlsfiles.context_from(settings.tls_cert, settings.tls_key)
        for line in tlsfiles.advice(context, settings.tls_cert, settings.tls_key):
            log.warning("advice", extra={"advice": line})
    if not settings.inspectable:
        linux.hide_memory()
    linux.raise_fd_limit()
    linux.become_subreaper()
    os.umask(0o077)
    with contextlib.ExitStack() as undo:
        listener = inherited.listener or listen(settings.host, settings.port)
        undo.callback(listener.close)
        started = settings
        if inherited.listener:
            settings = _bound(settings, listener)
        agents = (
            listen_for_agents(settings.host, settings.agent_port) if settings.agent_port else None
        )
        if agents is not None:
            undo.callback(agents.close)
        runtime = RuntimeDir(settings.runtime_dir)
        undo.callback(runtime.close)
        supervisor = Supervisor(
            settings,
            listener,
            runtime,
            lambda step: announce(supervisor, step),
            agents,
            inherited=inherited,
            reread=reread,
            started=started,
        )
        undo.pop_all()
    return await supervisor.run()


def _bound(settings: Settings, listener: socket.socket) -> Settings:
    """The settings with the address of the inherited listener, which is nobody's to choose here.

    Raises ConfigError, as the start does, where that address is public and anyone might call.
    """
    host, port = listener.getsockname()[:2]
    if (settings.host, settings.port) != (host, port):
        log.info("the service manager has chosen the address", extra={"host": host, "port": port})
    settings = replace(settings, host=host, port=port)
    check(settings)
    prepare(listener)
    return settings
