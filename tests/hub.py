"""A model hub on loopback that speaks the Hugging Face Hub's HTTP API, for downloads in tests.

It has what `huggingface_hub` asks for when it downloads a repository or one file of it: the
repository's description and file tree, and `resolve` with ETag, commit and ranges; large files are
redirected to another address, as the Hub's storage of large files is
(https://huggingface.co/docs/hub/api).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.models import NOWHERE

LARGE = 1 << 16
"""Bytes from which a file is stored apart from its repository."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Of every repository: they never change."""

_MODEL = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<rev>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)")
_STORED = re.compile(r"/stored/(?P<sha>[0-9a-f]{64})")


class Hub:
    """Serves `repos`: name -> file in it -> content. A context manager.

    `breaks`: breaks off the first answer with a file of this name half-way.
    """

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]], *, breaks: str = "") -> None:
        self.repos = {name: dict(files) for name, files in repos.items()}
        self.breaks = breaks
        self.requests: list[tuple[str, str, str]] = []
        """(method, path, Range header or "") of what was asked, in order."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, cache: Path) -> dict[str, str]:
        """For a child process: this hub is the only one, and downloads go to `cache`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """The same for this process, which has read its environment already."""
        from huggingface_hub import constants

        assert constants.ENDPOINT == NOWHERE, "the library was imported before tests.models"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(NOWHERE, self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_XET_CACHE", str(cache / "xet"))

    def close(self) -> None:
        """Stop. Whoever asks from now on is refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        class Handler(_Handler):
            hub = self

        return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if found := _STORED.fullmatch(path):
            self._send_stored(found["sha"])
        elif found := _MODEL.fullmatch(path):
            self._send_description(found["repo"], found["what"] == "tree")
        elif found := _RESOLVE.fullmatch(path):
            self._send_file(found["repo"], found["file"])
        else:
            self._send_error("")

    def _send_description(self, repo: str, tree: bool) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            self._send_error("RepoNotFound")
            return
        described = [_describe(name, content) for name, content in files.items()]
        if tree:
            self._send_json(
                [{"type": "file", "path": it.pop("rfilename"), **it} for it in described]
            )
        else:
            self._send_json({"_id": "0", "id": repo, "sha": COMMIT, "siblings": described})

    def _send_file(self, repo: str, name: str) -> None:
        if repo not in self.hub.repos:
            self._send_error("RepoNotFound")
            return
        content = self.hub.repos[repo].get(name)
        if content is None:
            self._send_error("EntryNotFound")
            return
        sha = hashlib.sha256(content).hexdigest()
        if len(content) < LARGE:
            self._send_content(name, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{sha[:40]}"'})
            return
        self._send_head(
            302,
            {
                # By another name: the library follows the Hub's redirects within itself at once.
                "Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/stored/{sha}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": f'"{sha}"',
                "Content-Length": "0",
            },
        )

    def _send_stored(self, sha: str) -> None:
        for files in self.hub.repos.values():
            for name, content in files.items():
                if hashlib.sha256(content).hexdigest() == sha:
                    self._send_content(name, content, {"ETag": f'"{sha}"'})
                    return
        self._send_error("")

    def _send_content(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = min(int(wanted[1]), len(content)) if wanted else 0
        head = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(content) - start)}
        if wanted:
            head["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send_head(206 if wanted else 200, head)
        if self.command == "HEAD":
            return
        if name == self.hub.breaks:
            self.hub.breaks = ""
            self.wfile.write(content[start : (start + len(content)) // 2])
            return
        self.wfile.write(content[start:])

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self._send_head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _send_error(self, code: str) -> None:
        """As the Hub answers those who have logged in; strangers get 401 for absent repositories,
        which the library takes for that only from https addresses."""
        headers = {"X-Error-Code": code} if code else {}
        headers |= {"X-Repo-Commit": COMMIT} if code == "EntryNotFound" else {}
        self._send_head(404, {**headers, "Content-Length": "0"})

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Connection", "close")  # so that nothing outlives `close`
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _describe(name: str, content: bytes) -> dict[str, Any]:
    sha = hashlib.sha256(content).hexdigest()
    large = {"lfs": {"size": len(content), "sha256": sha, "oid": sha, "pointerSize": 134}}
    return {
        "rfilename": name,
        "size": len(content),
        "blobId": sha[:40],
        "oid": sha[:40],
        **(large if len(content) >= LARGE else {}),
    }
