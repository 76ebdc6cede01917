"""Files for browsers: what is served, what never is, and that slow readers get large ones whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pools import PoolServer
from tests.rawhttp import Answer, exchange, parse
from voicepool import farewells as parting
from voicepool import pages
from voicepool.answers import FileAnswer
from voicepool.errors import ConfigError, ExitCode
from voicepool.frontdoor import Farewells, Visitor
from voicepool.pages import MAX_FILE, SMALL_FILE, Pages
from voicepool.request import Head, parse_head

SECRET = b"not for the world"
LARGE = os.urandom(1 << 20) * 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's client files, as RealtimeVoiceChat has them: all in one folder."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    root = tmp_path / "client"
    (root / "sub").mkdir(parents=True)
    files = {
        "index.html": b"<title>mine</title>",
        "app.js": b"let a = 1;",
        "sub/a b.css": b"a {}",
        ".env": SECRET,
        "large.bin": LARGE,
        "odd": b"?",
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(SECRET)
    (root / "out").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "hidden").symlink_to(".env")
    (root / "round").symlink_to("round")
    (root / "fine.js").symlink_to("app.js")
    os.mkfifo(root / "pipe")
    return root


def asked(served: Pages, target: str, *lines: str, method: str = "GET") -> Answer | None:
    """The answer to one request, with the body of a file read."""
    text = "\r\n".join((f"{method} {target} HTTP/1.1", "Host: localhost", *lines, "", ""))
    head = parse_head(text.encode())
    assert isinstance(head, Head)
    answer = served.answer(head)
    if isinstance(answer, FileAnswer):
        with os.fdopen(answer.fd, "rb") as file:
            return parse(answer.start + file.read(answer.size))
    return None if answer is None else parse(answer)


@pytest.fixture(autouse=True)
def no_descriptor_stays_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    yield
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


# --- what is served --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/?lang=en", "index.html", "text/html; charset=utf-8"),
        ("http://localhost/", "index.html", "text/html; charset=utf-8"),
        ("/index.html", "index.html", "text/html; charset=utf-8"),
        ("/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/app.js?v=2", "app.js", "text/javascript; charset=utf-8"),
        ("/%61pp.js", "app.js", "text/javascript; charset=utf-8"),
        ("/static/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/static/sub/a%20b.css", "sub/a b.css", "text/css; charset=utf-8"),
        ("/sub/a%20b.css", "sub/a b.css", "text/css; charset=utf-8"),
        ("/fine.js", "app.js", "text/javascript; charset=utf-8"),
        ("/odd", "odd", "application/octet-stream"),
        ("/large.bin", "large.bin", "application/octet-stream"),
    ],
)
def test_files_of_the_folder(folder: Path, target: str, name: str, kind: str) -> None:
    served = Pages(str(folder))
    answer = asked(served, target)
    assert answer is not None
    assert (answer.status, answer.body) == (200, (folder / name).read_bytes())
    assert answer.headers["content-type"] == kind
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-security-policy" not in answer.headers
    head = asked(served, target, method="HEAD")
    assert head is not None
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**answer.headers, "date": ""}


def test_a_folder_named_static_comes_first(folder: Path) -> None:
    (folder / "static").mkdir()
    (folder / "static" / "app.js").write_text("inner")
    served = Pages(str(folder))
    for target, body in (("/static/app.js", b"inner"), ("/static/odd", b"?")):
        answer = asked(served, target)
        assert answer is not None
        assert answer.body == body


@pytest.mark.parametrize(
    "target",
    [
        *("/..", "/../secret.txt", "/static/../../secret.txt", "/sub/../app.js", "/./app.js"),
        *("/%2e%2e/secret.txt", "/%2E%2E%2Fsecret.txt", "/sub%2Fa%20b.css", "/..%5csecret.txt"),
        *("//app.js", "/sub//a%20b.css", "/app.js/", "/app.js%00", "/%00", "/app.js%0a"),
        *("/.env", "/.git/config", "/static/.env", "/hidden", "/%2eenv"),
        *("/out", "/up/secret.txt", "/round", "/pipe", "/sub", "/sub/", "/static/"),
        *("/absent", "/%ff", "/" + "x" * 5000, "/" + "a/" * 3000, "*", "localhost:443"),
    ],
)
def test_what_is_never_served(folder: Path, target: str) -> None:
    assert asked(Pages(str(folder)), target) is None


def test_a_file_that_goes_and_changes_is_noticed(folder: Path) -> None:
    served = Pages(str(folder))
    first = asked(served, "/app.js")
    (folder / "app.js").write_text("let b = 22;")
    second = asked(served, "/app.js")
    assert first is not None
    assert second is not None
    assert second.body == b"let b = 22;"
    assert first.headers["etag"] != second.headers["etag"]
    (folder / "app.js").unlink()
    assert asked(served, "/app.js") is None


@pytest.mark.parametrize("target", ["/app.js", "/large.bin"])
def test_a_client_that_has_it_is_told_so(folder: Path, target: str) -> None:
    served = Pages(str(folder))
    full = asked(served, target)
    assert full is not None
    etag = full.headers["etag"]
    for value in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = asked(served, target, f"If-None-Match: {value}")
        assert answer is not None
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    answer = asked(served, target, 'If-None-Match: "other"')
    assert answer is not None
    assert answer.status == 200


def test_equal_times_do_not_make_equal_files(folder: Path) -> None:
    """Packages install all versions of a file with one time."""
    tags = set()
    for text in ("one", "two"):
        (folder / "app.js").write_text(text)
        os.utime(folder / "app.js", (1, 1))
        answer = asked(Pages(str(folder)), "/app.js")
        assert answer is not None
        tags.add(answer.headers["etag"])
    assert len(tags) == 2


def test_files_that_are_too_large(folder: Path) -> None:
    with (folder / "huge").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    answer = asked(Pages(str(folder)), "/huge")
    assert answer is not None
    assert (answer.status, answer.error["code"]) == (403, "file_too_large")
    assert "32 MiB" in answer.error["message"]


def test_other_methods(folder: Path) -> None:
    answer = asked(Pages(str(folder)), "/app.js", method="POST")
    assert answer is not None
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_out_of_descriptors(folder: Path) -> None:
    """The file is there: to say that it is not would be cached, or believed."""
    served = Pages(str(folder))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        answer = asked(served, "/app.js")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)
    assert answer is not None
    assert (answer.status, answer.error["code"]) == (503, "overloaded")


def test_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CACHE_BYTES", 2 * SMALL_FILE)
    served = Pages(str(folder))
    for round_ in range(2):
        for number in range(5):
            (folder / f"{number}").write_bytes(bytes([round_]) * SMALL_FILE)
            answer = asked(served, f"/{number}")
            assert answer is not None
            assert answer.body == bytes([round_]) * SMALL_FILE
            held = [small.content for small in served._cache.values()]
            assert sum(map(len, held)) == served._cached <= 2 * SMALL_FILE


def test_a_folder_that_cannot_be_served(tmp_path: Path) -> None:
    for wrong in (tmp_path / "absent", tmp_path):
        with pytest.raises(ConfigError, match=r"index\.html"):
            Pages(str(wrong))


def test_our_own_page_lets_nothing_else_in() -> None:
    answer = asked(Pages(), "/")
    assert answer is not None
    assert answer.body.startswith(b"<!doctype html>")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["permissions-policy"].startswith("microphone=(self)")
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert asked(Pages(), "/static/index.html") is None


# --- on the wire -----------------------------------------------------------------------------


class Transfer:
    """A large file on its way to a visitor who reads when the test says so, by its own clock."""

    def __init__(self, path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        self._ours, self._theirs = tcp_pair()
        self._theirs.send(b"GET")
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._farewells = Farewells(loop, lambda: None)
        answer = FileAnswer(b"start ", os.open(path, os.O_RDONLY), size)
        self._farewells.answer(Visitor(self._ours, ("h", 1)), answer)
        self.received = b""

    @property
    def open(self) -> bool:
        return self._ours.fileno() != -1

    async def read(self, enough: Callable[[], bool]) -> None:
        """Read until that is so, or until the end."""
        ended = False
        while not (ended or enough()):
            with contextlib.suppress(BlockingIOError):
                piece = self._theirs.recv(65536)
                self.received += piece
                ended = not piece
            await asyncio.sleep(0)

    @property
    def sent(self) -> int:
        leaving = self._farewells._leaving.get(self._ours)
        return leaving.sent if leaving else -1

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)

    async def close(self) -> None:
        self._theirs.close()
        await self._farewells.close(0)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """With the smallest window there is on the visitor's side."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(listener.getsockname())
        return listener.accept()[0], theirs


@pytest.fixture
def transfer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Transfer]:
    def begin(size: int = len(LARGE)) -> Transfer:
        return Transfer(folder / "large.bin", size, monkeypatch)

    return begin


@pytest.mark.parametrize(("rest", "whole"), [(1.0, True), (4.0, False)])
async def test_a_slow_reader_gets_all_of_it_unless_it_takes_minutes(
    transfer: Callable[..., Transfer], rest: float, whole: bool
) -> None:
    """Whoever takes a piece every few seconds is not cut off for being slow, for a while."""
    assert rest < parting.FAREWELL_SECONDS
    underway = transfer()
    began = underway.now
    while underway.open and len(underway.received) < 6 + len(LARGE):
        sent = underway.sent
        await underway.read(lambda sent=sent: underway.sent != sent)  # type: ignore[misc]
        await underway.pass_time(rest)
    assert underway.now - began > 10 * parting.FAREWELL_SECONDS
    assert (underway.received == b"start " + LARGE) == whole
    await underway.close()


async def test_who_takes_nothing_is_cut_off(transfer: Callable[..., Transfer]) -> None:
    underway = transfer()
    await underway.read(lambda: underway.sent > 0)
    await underway.pass_time(parting.FAREWELL_SECONDS)
    assert not underway.open
    await underway.close()


async def test_a_file_that_becomes_shorter_ends_the_connection(
    transfer: Callable[..., Transfer],
) -> None:
    """A client that has been told a length must not take the next thing for the rest of it."""
    underway = transfer(size=len(LARGE) + 1)
    await underway.read(lambda: False)
    assert underway.received == b"start " + LARGE
    assert not underway.open
    await underway.close()


async def test_a_socket_that_is_not_tcp(folder: Path) -> None:
    """A relay's, which has done the TLS: of it, too, little is on its way at a time, so that who
    is slow is seen to get on."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    theirs.send(b"GET")
    farewells = Farewells(asyncio.get_running_loop(), lambda: None)
    fd = os.open(folder / "large.bin", os.O_RDONLY)
    farewells.answer(Visitor(ours, ("h", 1)), FileAnswer(b"", fd, len(LARGE)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert 0 < farewells._leaving[ours].sent <= parting.UNSENT_BYTES
    received = b""
    while piece := await asyncio.get_running_loop().sock_recv(theirs, 65536):
        received += piece
    assert received == LARGE
    theirs.close()
    await farewells.close(1)


Start = Callable[..., PoolServer]


@pytest.fixture
def served(start_pool: Start, folder: Path) -> PoolServer:
    return start_pool(workers=1, static=str(folder))


def test_a_server_with_a_folder(served: PoolServer) -> None:
    """Beside its own answers and the app's paths, which no file can hide."""
    with served.socket() as client:
        answer = exchange(client, b"GET /static/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (answer.status, answer.body) == (200, LARGE)
    assert served.get("/echo")[0] == 426
    assert served.get("/status")[0] == 200
    code, body = served.get("/absent")
    assert code == 404
    assert "try /, /healthz" in body["error"]["message"]
    assert served.get("/", Host="evil.example")[0] == 403
    assert served.get("/", Origin="https://evil.example")[0] == 403


def test_a_server_that_asks_for_keys_still_serves_files(start_pool: Start, folder: Path) -> None:
    server = start_pool(workers=1, static=str(folder), api_keys=["a-key-that-is-long-enough"])
    with server.socket() as client:
        assert exchange(client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200


def test_an_app_without_our_protocol_has_no_page(start_pool: Start) -> None:
    assert start_pool(workers=1).get("/")[0] == 404


def test_a_missing_folder_is_told_at_the_start(start_pool: Start, tmp_path: Path) -> None:
    server = start_pool(wait=False, static=str(tmp_path / "absent"))
    assert server.wait() == ExitCode.USAGE
    assert "is not a folder" in "".join(server.stderr)
