"""A real Prometheus with the configuration and the rules that we ship, on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from tests.pools import DEADLINE
from tests.ports import free_port

SHIPPED = Path(__file__).parent.parent / "deploy" / "prometheus"
INTERVAL = "1s"


class Prometheus:
    """Scrapes and judges as shipped, only more often; `targets` instead of the ones in the file."""

    def __init__(self, folder: Path, targets: Iterable[str], key: str) -> None:
        self._url = f"http://127.0.0.1:{free_port()}"
        self._log = (folder / "prometheus.log").open("w+")
        (folder / "voicepool.key").write_text(key + "\n")
        options = {
            "config.file": _configure(folder, list(targets)),
            "storage.tsdb.path": folder / "data",
            "web.listen-address": self._url.removeprefix("http://"),
            "log.level": "warn",
        }
        self._process = subprocess.Popen(
            ["prometheus", *(f"--{name}={value}" for name, value in options.items())],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series of an instant query's answer. Raises AssertionError where it is not taken."""
        answer = self._get("query", query=query)
        found: list[dict[str, Any]] = answer["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with how its last evaluation went."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """What `condition` answers once it is true. It has no way to tell of it by itself."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if found := condition():
                    return found
            except urllib.error.URLError:
                pass  # it does not listen yet, or is not ready
            time.sleep(0.05)
        self._log.seek(0)
        raise AssertionError(f"Prometheus has not {what}: {self._log.read()}")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._log.close()

    def _get(self, what: str, **fields: str) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as response:
                document = json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise  # not ready yet
            raise AssertionError(error.read().decode()) from None
        data: dict[str, Any] = document["data"]
        return data


def _configure(folder: Path, targets: list[str]) -> Path:
    """The files as shipped, with all intervals short and other targets."""
    document = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text())
    document["global"] = dict.fromkeys(document["global"], INTERVAL)
    document["global"]["scrape_timeout"] = INTERVAL
    for job in document["scrape_configs"]:
        job["static_configs"] = [{"targets": targets}]
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(document))
    for name in document["rule_files"]:
        shutil.copy(SHIPPED / name, folder)
        rules = yaml.safe_load((folder / name).read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / name).write_text(yaml.safe_dump(rules))
    return file
