"""The zygote: a single-threaded template process that forks warm workers on request.

It imports the app and loads what survives a fork, freezes that, and then does nothing but fork,
hand back pidfds and reap. It never creates a thread or a CUDA context (checked before every fork).
When the supervisor is gone it buries the workers, removes the runtime directory and exits.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import logging
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from voicepool import callserver, ipc, linux, logs, worker
from voicepool.app import App, Presetting
from voicepool.config import Settings, wants_color
from voicepool.errors import ConfigError, EngineUnavailable, IpcError, PresetError
from voicepool.ipc import FAULT, MAX_PREVIEW

log = logging.getLogger("voicepool.zygote")

RESERVED = ("/healthz", "/readyz", "/status", "/metrics")
"""Paths that the supervisor answers itself."""
BURIAL_SECONDS = 0.7
"""How long the zygote waits for workers that the kernel is killing after the supervisor's death."""


def load_app(name: str, settings: Settings) -> App:
    """The app that MODULE:FACTORY makes, or the speech app for "".

    Raises ConfigError where there is no such module or factory, or what it makes is no App.
    """
    if not name:
        from voicepool.speech import create

        return create(settings)
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name:
        raise ConfigError(f"--app {name!r}: write it as package.module:factory")
    app = _find_factory(name, module_name, factory_name)()
    if not isinstance(app, App):
        raise ConfigError(
            f"--app {name!r}: {factory_name}() made a {type(app).__name__}, which is no app: it "
            "must have paths, preload(), load(device), warm_up() and serve(websocket)"
        )
    for member in ("preload", "load", "warm_up"):
        if inspect.iscoroutinefunction(getattr(app, member)):  # which nobody would await
            raise ConfigError(
                f"--app {name!r}: {member}() must not be async: write def {member}, it may block"
            )
    return app


def check_paths(paths: Sequence[str]) -> list[str]:
    """What an app's `paths` must be for a caller to find it. Raises ConfigError."""
    if isinstance(paths, str) or not paths:
        raise ConfigError(f'the app\'s paths must be a list such as ["/echo"], not {paths!r}')
    for path in paths:
        if not path.startswith("/") or path in RESERVED:
            raise ConfigError(
                f"the app's path {path!r} cannot be reached: a path begins with / and is none of "
                + ", ".join(RESERVED)
            )
    return list(paths)


def _find_factory(name: str, module_name: str, factory_name: str) -> Callable[[], object]:
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--app {name!r}: no module named {error.name!r} can be imported from the current "
            "directory or the environment; check the spelling, or install the package"
        ) from error
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}"
        raise ConfigError(f"--app {name!r}: {where}: not valid Python: {error.msg}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ConfigError(f"--app {name!r}: {module_name} has no callable {factory_name!r}")
    with contextlib.suppress(ValueError):  # some callables that are not Python's have no signature
        try:
            inspect.signature(factory).bind()
        except TypeError as error:
            raise ConfigError(
                f"--app {name!r}: {factory_name}() is called without arguments: {error}"
            ) from error
    return factory  # type: ignore[no-any-return]


class Zygote:
    """The fork server's loop. Owns its channel to the supervisor."""

    def __init__(
        self,
        channel: ipc.Channel[ipc.ToZygote],
        app: App,
        settings: Settings,
        oom_score: linux.OomScore,
    ) -> None:
        self.channel = channel
        self._oom_score = oom_score
        self.app = app
        self.settings = settings
        self._flood = logs.FloodGuard(log)
        self.workers: dict[int, int] = {}
        """Worker numbers by pid, of children that are not reaped yet."""

    def run(self) -> None:
        """Fork and reap until the supervisor closes its end."""
        wakeup_read, wakeup_write = socket.socketpair()
        for end in (wakeup_read, wakeup_write):
            end.setblocking(False)
        # SIGCHLD must have a Python handler for the wake-up byte to be written.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(self.channel, select.POLLIN)
        poller.register(wakeup_read, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if wakeup_read.fileno() in ready:
                _drain(wakeup_read)
                self._reap()
            if self.channel.fileno() in ready and not self._serve_request():
                # Or the next SIGCHLD would be written to a descriptor that is closed by then.
                signal.set_wakeup_fd(-1)
                return

    def _serve_request(self) -> bool:
        """Carry out one request; False when the supervisor is gone."""
        try:
            received = self.channel.receive()
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if received is None:
            return False
        request, fds = received
        match request:
            case ipc.Fork():
                self._fork(request, *fds)
            case ipc.Preset():
                self._reply(self._preview(request))
            case _:
                raise IpcError(f"the zygote did not expect {type(request).__name__}")
        return True

    def _preview(self, asked: ipc.Preset) -> ipc.Preview:
        number = asked.question
        if not isinstance(self.app, Presetting):
            return ipc.Preview(number, error="this app's calls cannot be set up beforehand")
        try:
            made = self.app.preset(asked.session, asked.form)
        except PresetError as error:
            return ipc.Preview(number, error=str(error), code=error.code, param=error.param)
        except Exception as error:  # noqa: BLE001
            # An app's own fault, about what a client has sent: nobody else shall suffer from it,
            # and the log shall not quote it.
            self._flood.log(logging.ERROR, "preset failed", error=type(error).__name__)
            return ipc.Preview(number, error="the app failed to judge this session", code=FAULT)
        if len(made.stored) + len(made.shown) > MAX_PREVIEW:
            why = f"a session that is set up beforehand is limited to {MAX_PREVIEW // 2} bytes"
            return ipc.Preview(number, error=why, code="string_above_max_length", param="session")
        return ipc.Preview(number, made.stored, made.shown)

    def _fork(self, request: ipc.Fork, control: int, lifeline: int) -> None:
        try:
            refusal = self._unfit()
            if refusal:
                self._reply(ipc.ForkFailed(request.worker, refusal, permanent=True))
                return
            try:
                with self._oom_score.raised():
                    pid = os.fork()
                    if pid == 0:
                        self._become_worker(request, control, lifeline)
            except OSError as error:
                self._reply(ipc.ForkFailed(request.worker, f"fork: {error.strerror}"))
                return
            self.workers[pid] = request.worker
            pidfd = os.pidfd_open(pid)
            try:
                self._reply(ipc.Forked(request.worker, pid), pidfd)
            finally:
                os.close(pidfd)
        finally:
            os.close(control)
            os.close(lifeline)

    def _become_worker(self, request: ipc.Fork, control: int, lifeline: int) -> NoReturn:
        # Whatever happens here must never fall back into the zygote's loop.
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.channel.close()
            self._oom_score.close()
            sock = socket.socket(fileno=control)
            place = worker.Place(request.worker, request.gpu, request.tmpdir)
            code = worker.main(self.app, sock, lifeline, place, self.settings)
        except BaseException:
            log.exception("worker failed", extra={"worker": request.worker})
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _unfit(self) -> str:
        """Why a fork now would make a broken worker, or ""."""
        if linux.thread_count() > 1:
            return (
                "the app's preload() left a thread running, and threads do not survive a fork: "
                "start it in load(), which runs in the worker"
            )
        if linux.holds_gpu():
            return (
                "the app's preload() opened a GPU, and CUDA does not survive a fork: "
                "move that to load(), which runs in the worker"
            )
        return ""

    def _reap(self) -> None:
        while (ended := linux.reap()) is not None:
            pid, status = ended
            number = self.workers.pop(pid, None)
            if number is not None:
                self._reply(ipc.Reaped(number, pid, status))

    def _reply(self, message: ipc.FromZygote, *fds: int) -> None:
        # Blocking: the supervisor reads, or is gone and the loop will see EOF.
        try:
            self.channel.socket.setblocking(True)
            self.channel.send(message, fds)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.channel.socket.setblocking(False)

    def bury(self) -> None:
        """Wait for the workers that the kernel is killing, so that none is left behind."""
        deadline = time.monotonic() + BURIAL_SECONDS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while self.workers:
            self._reap()
            left = deadline - time.monotonic()
            if not self.workers or left <= 0:
                return
            signal.sigtimedwait({signal.SIGCHLD}, left)


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        pass


def prepare(app: App) -> None:
    """Preload the app and leave as little as possible for a fork to copy."""
    app.preload()
    callserver.preload()
    gc.collect()
    gc.freeze()
    linux.trim_heap()


def main() -> None:
    """`python -m voicepool.zygote FD`: FD is the control socket that the supervisor left open."""
    linux.name_process("vp-zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(True)
    channel: ipc.Channel[ipc.ToZygote] = ipc.Channel(sock, ipc.ToZygote)
    received = channel.receive()
    if received is None:
        return
    configure, fds = received
    if not isinstance(configure, ipc.Configure):
        raise IpcError(f"the zygote did not expect {type(configure).__name__}")
    # Until it is in its loop, only the kernel can end a zygote that hangs in an import.
    linux.arm_lifeline(fds[0])
    settings = msgspec.convert(configure.settings, Settings)
    color = wants_color(sys.stderr, os.environ)
    logs.configure(settings.log_level, logs.style(settings.log_format), color=color)
    oom_score = linux.OomScore()
    if not settings.inspectable:
        linux.hide_memory()
    try:
        app = _prepare_app(channel, configure, settings)
    except (BrokenPipeError, ConnectionResetError):
        app = None  # the supervisor is gone, or has changed its mind
    if app is None:
        os._exit(1)
    linux.disarm_lifeline(fds[0])
    sock.setblocking(False)
    zygote = Zygote(channel, app, settings, oom_score)
    zygote.run()
    zygote.bury()
    shutil.rmtree(configure.runtime_dir, ignore_errors=True)


def _prepare_app(
    channel: ipc.Channel[ipc.ToZygote], configure: ipc.Configure, settings: Settings
) -> App | None:
    try:
        ipc.check_version(configure.version, "supervisor")
        app = load_app(configure.app, settings)
        prepare(app)
        paths = check_paths(app.paths)
    except (Exception, SystemExit) as error:
        # Libraries raise SystemExit when a download fails; it must not look like a clean end.
        permanent = isinstance(error, ConfigError | EngineUnavailable | ImportError | IpcError)
        if not permanent:
            log.exception("preload failed")
        channel.send(ipc.ZygoteFailed(worker.describe(error), permanent))
        return None
    log.info("zygote ready", extra={"pid": os.getpid()})
    channel.send(ipc.ZygoteReady(ipc.PROTOCOL_VERSION, paths, linux.private_bytes()))
    return app


if __name__ == "__main__":
    main()
