"""Where settings come from; `settings.py` says what they are.

Nothing else in voicepool reads the environment or the configuration file. Later sources win:

    default  <  voicepool.toml  <  VOICEPOOL_<NAME> (and MAX_CONNECTIONS)  <  --name
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from voicepool.errors import ConfigError
from voicepool.setting import Spec
from voicepool.settings import SPECS, STAGES, Settings

__all__ = [
    "CLIENT_KEY",
    "CLIENT_URL",
    "FILE_NAME",
    "SPECS",
    "STAGES",
    "Effective",
    "Settings",
    "check",
    "client",
    "is_loopback",
    "load",
    "wants_color",
]

FILE_NAME = "voicepool.toml"
MIN_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Effective:
    """Settings, and for each field's name where its value came from, in words."""

    settings: Settings
    sources: Mapping[str, str]


CLIENT_URL = "ws://127.0.0.1:8000"
CLIENT_KEY = "VOICEPOOL_API_KEY"
"""Environment name of the key with which `talk`, `status` and `bench` call."""
OTHER_ENV = ("VOICEPOOL_CONFIG", CLIENT_KEY, "VOICEPOOL_URL")
"""Environment names that are no settings of the server: its file, and what its clients read."""


def load(
    flags: Mapping[str, str], environ: Mapping[str, str], cwd: Path, file: str | None = None
) -> Effective:
    """Gather the settings from all sources.

    `flags` maps setting names to the texts given on the command line; `file` is `--config`.
    Raises ConfigError with one line for each thing that is wrong.
    """
    problems: list[str] = []
    given: dict[str, _Given] = {}
    engines: dict[str, dict[str, Any]] = {}
    found = _find_file(file, environ, cwd)
    if found is not None:
        document = _Document.read(*found)
        given |= document.settings(problems)
        engines = document.engines(problems)
    given |= _parsed(_from_environ(environ, problems), problems)
    given |= _parsed(
        ((name, text, f"--{name.replace('_', '-')}") for name, text in flags.items()), problems
    )
    if not problems:
        _size_pool(given, problems)
    sources = {name: given[name].source if name in given else "default" for name in SPECS}
    sources["engines"] = found[1] if engines and found else "default"
    settings = Settings(
        **{name: item.value for name, item in given.items()},
        engines=engines,
        visible_gpus=environ.get("CUDA_VISIBLE_DEVICES"),
    )
    if not problems:
        problems += _contradictions(settings, sources)
    if problems:
        raise ConfigError("\n".join(problems))
    return Effective(settings, sources)


def file_name(environ: Mapping[str, str], cwd: Path, file: str | None = None) -> str | None:
    """The configuration file that `load` reads, None where there is none."""
    found = _find_file(file, environ, cwd)
    return found[1] if found else None


def check(settings: Settings) -> None:
    """Raise ConfigError where settings contradict each other, wherever they came from."""
    problems = list(_contradictions(settings, dict.fromkeys(SPECS, "in force")))
    if problems:
        raise ConfigError("\n".join(problems))


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    source: str


def _parsed(texts: Iterable[tuple[str, str, str]], problems: list[str]) -> dict[str, _Given]:
    """Values of (name, text, source); what cannot be read becomes a problem."""
    given = {}
    for name, text, source in texts:
        spec = SPECS[name]
        try:
            given[name] = _Given(spec.from_text(text), source)
        except ValueError:
            problems.append(f"{source}: expected {spec.expected}{_got(spec, text)}")
    return given


def _got(spec: Spec, value: object) -> str:
    return "" if spec.secret else f", got {value!r}"


def _nearest(name: str, names: Iterable[str], written: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {written(close[0])}?" if close else ""


# --- the environment -------------------------------------------------------------------------


def _env_name(name: str) -> str:
    return SPECS[name].env


def _from_environ(
    environ: Mapping[str, str], problems: list[str]
) -> Iterator[tuple[str, str, str]]:
    """(name, text, source) of every variable that is a setting."""
    names = {_env_name(name): name for name in SPECS}
    ours = {key for key in environ if key.startswith("VOICEPOOL_")} - _service_links(environ)
    for key in sorted(ours):
        if key in names:
            yield names[key], environ[key], key
        elif key not in OTHER_ENV:
            close = _nearest(key.removeprefix("VOICEPOOL_").lower(), SPECS, _env_name)
            problems.append(f"{key}: no such setting{close}")
    if "MAX_CONNECTIONS" in environ and SPECS["max_connections"].env not in ours:
        yield "max_connections", environ["MAX_CONNECTIONS"], "MAX_CONNECTIONS"


def _service_links(environ: Mapping[str, str]) -> set[str]:
    """What Kubernetes sets in every pod beside a Service named "voicepool"; not ours to read."""
    if "VOICEPOOL_SERVICE_HOST" not in environ:
        return set()
    link = re.compile(r"VOICEPOOL_(SERVICE_(HOST|PORT(_.*)?)|PORT_\d+_.*)")
    links = {key for key in environ if link.fullmatch(key)}
    return links | {"VOICEPOOL_PORT"} if "://" in environ.get("VOICEPOOL_PORT", "") else links


# --- the file --------------------------------------------------------------------------------


def _find_file(file: str | None, environ: Mapping[str, str], cwd: Path) -> tuple[Path, str] | None:
    """The configuration file's path and what to call it, None where there is none."""
    named = file or environ.get("VOICEPOOL_CONFIG")
    if named:
        return cwd / named, named
    path = cwd / FILE_NAME
    return (path, FILE_NAME) if path.exists() else None


class _Document:
    """A configuration file, parsed."""

    def __init__(self, text: str, label: str) -> None:
        self._lines = text.splitlines()
        self._label = label
        try:
            self._tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{label}: not valid TOML: {error}") from error
        except (ValueError, RecursionError) as error:
            # A number of thousands of digits, or brackets within as many brackets.
            raise ConfigError(f"{label}: not a configuration file: {error}") from error

    @classmethod
    def read(cls, path: Path, label: str) -> _Document:
        try:
            # Some editors begin every text with a byte order mark.
            return cls(path.read_text(encoding="utf-8-sig"), label)
        except OSError as error:
            raise ConfigError(f"{label}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{label}: not UTF-8 text") from error

    def settings(self, problems: list[str]) -> dict[str, _Given]:
        """The values of all tables but the engines'."""
        given: dict[str, _Given] = {}
        sections = dict.fromkeys(spec.section for spec in SPECS.values())
        for section, table in self._tables.items():
            if section in STAGES:
                continue
            if section not in sections:
                problems.append(self._unknown_section(section, (*sections, *STAGES)))
            elif not isinstance(table, dict):
                problems.append(f"{self._at(section)}: {section}: expected a table, [{section}]")
            else:
                for name, value in table.items():
                    self._take(section, name, value, given, problems)
        return given

    def _unknown_section(self, section: str, known: Iterable[str]) -> str:
        if section in SPECS:
            return (
                f"{self._at(section)}: {section}: belongs in the table [{SPECS[section].section}]"
            )
        return f"{self._at(section)}: [{section}]: no such table{_nearest(section, known)}"

    def _take(
        self, section: str, name: str, value: object, given: dict[str, _Given], problems: list[str]
    ) -> None:
        at = self._at(name, section)
        spec = SPECS.get(name)
        if spec is None:
            problems.append(f"{at}: {name}: no such setting{_nearest(name, SPECS)}")
        elif spec.section != section:
            problems.append(f"{at}: {name}: belongs in the table [{spec.section}]")
        else:
            try:
                given[name] = _Given(spec.from_toml(value), at)
            except ValueError:
                problems.append(f"{at}: {name}: expected {spec.expected}{_got(spec, value)}")

    def engines(self, problems: list[str]) -> dict[str, dict[str, Any]]:
        """The tables of the stages; the engines check their own options."""
        engines = {}
        for stage in STAGES:
            table = self._tables.get(stage, {})
            if not isinstance(table, dict) or not isinstance(table.get("engine", ""), str):
                problems.append(
                    f'{self._at(stage)}: {stage}: expected a table such as engine = "name"'
                )
            elif table:
                engines[stage] = table
        return engines

    def _at(self, name: str, section: str = "") -> str:
        """The file and, where it can be told, the line that sets `name` in `section`.

        tomllib keeps no positions, so this looks for the plain forms `[section]` and `name = `.
        """
        inside = ""
        key = re.compile(rf"""\s*["']?{re.escape(name)}["']?\s*=""")
        for number, line in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
                inside = header[1]
            if (inside == section and key.match(line)) or (
                header and not section and inside == name
            ):
                return f"{self._label}:{number}"
        return self._label


# --- checks across settings ------------------------------------------------------------------

_GPU = r"(\d+(:\d+)?|(GPU|MIG)-[\w/-]+)"


def _size_pool(given: dict[str, _Given], problems: list[str]) -> None:
    """Whichever of workers and max_connections is unset follows the other."""
    workers, limit = given.get("workers"), given.get("max_connections")
    if workers and not limit:
        given["max_connections"] = _Given(workers.value, "follows workers")
    elif limit and not workers:
        given["workers"] = _Given(limit.value, "follows max_connections")
    elif workers and limit and workers.value > limit.value:
        problems.append(
            f"workers is {workers.value} ({workers.source}) but max_connections is {limit.value} "
            f"({limit.source}): more warm workers than callers would never be used; raise "
            f"max_connections to {workers.value} or lower workers to {limit.value}"
        )


def _contradictions(settings: Settings, sources: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with values that are each fine alone."""

    def at(name: str) -> str:
        return f"{name} ({sources[name]})"

    if settings.heartbeat_timeout <= settings.heartbeat_interval:
        yield f"{at('heartbeat_timeout')} must be longer than {at('heartbeat_interval')}"
    for memory in ("ram", "vram"):
        soft = getattr(settings, f"{memory}_soft_limit")
        hard = getattr(settings, f"{memory}_hard_limit")
        if soft is not None and hard is not None and hard < soft:
            yield f"{at(f'{memory}_hard_limit')} must not be below {at(f'{memory}_soft_limit')}"
    if not re.fullmatch(rf"auto|none|{_GPU}(\s*,\s*{_GPU})*", settings.gpus.strip()):
        yield (
            f"{at('gpus')}: expected auto, none, or a list such as 0,1 or GPU-5a..., "
            f"got {settings.gpus!r}"
        )
    for name in ("api_keys", "admin_keys"):
        for number, key in enumerate(getattr(settings, name), 1):
            if len(key) < MIN_KEY_LENGTH or not re.fullmatch(r"[!-+\--~]+", key):
                yield (
                    f"{at(name)}: key {number} must be {MIN_KEY_LENGTH} or more letters, digits "
                    "and signs, without spaces or commas; make one with: openssl rand -hex 24"
                )
    for name in settings.allowed_hosts:
        if "/" in name or re.fullmatch(r"[^:]*:\d*", name):
            yield (
                f"{at('allowed_hosts')}: expected a name such as voice.example.org, without scheme "
                f"and port, or *, got {name!r}"
            )
    for origin in settings.allowed_origins:
        if origin not in ("*", "null") and not re.fullmatch(r"[\w+.-]+://[^/\s]+/?", origin):
            yield (
                f"{at('allowed_origins')}: expected an origin such as https://example.org, without "
                f"a path, or *, got {origin!r}"
            )
    for network in settings.trusted_proxies:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            yield f"{at('trusted_proxies')}: {network!r} is not an address or network"
    if settings.proxy_protocol and not settings.trusted_proxies:
        yield (
            f"{at('proxy_protocol')} takes trusted_proxies: name the addresses or networks of the "
            "proxies that send PROXY headers; nobody else's are believed"
        )
    for given, lacking in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(settings, given) and not getattr(settings, lacking):
            yield f"{at(given)} is of no use without {lacking}: TLS takes a certificate and its key"
    if settings.app and not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", settings.app):
        yield f"{at('app')}: expected package.module:factory, got {settings.app!r}"
    if not (is_loopback(settings.host) or settings.asks_for_keys or settings.no_auth):
        yield (
            f"{at('host')}: {settings.host!r} is reachable from other machines and no key is set, "
            "so anyone there could use your server: set VOICEPOOL_API_KEYS (make a key with: "
            "openssl rand -hex 24) or keys_file, or say --no-auth if that is what you want"
        )


# --- what is no setting of the server ----------------------------------------------------------


def client(url: str | None, api_key: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """The server's address and key for `talk` and `status`: flag, else environment.

    Raises ConfigError where the key is one that no header can carry; it does not repeat it.
    """
    source, key = ("--api-key", api_key) if api_key else (CLIENT_KEY, environ.get(CLIENT_KEY) or "")
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigError(
            f"{source}: a key has letters, digits and signs, without spaces or line ends; this has "
            "others"
        )
    return url or environ.get("VOICEPOOL_URL") or CLIENT_URL, key


def wants_color(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` is a terminal whose user has not opted out (https://no-color.org)."""
    opted_out = bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
    return stream.isatty() and not opted_out


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine alone, as far as its name tells."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
