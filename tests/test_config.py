"""Settings: every source, their order, and what a user is told when one is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from voicepool.config import SPECS, Effective, is_loopback, load
from voicepool.errors import ConfigError

KEY = "0123456789abcdef"
DURATION = 'seconds, or a duration such as "90s" or "5m"'
SIZE = 'bytes, or a size such as "512MiB" or "2GB"'


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return tmp_path


def written(cwd: Path, text: str) -> Path:
    (cwd / "voicepool.toml").write_text(text)
    return cwd


def complaint(
    cwd: Path,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {}, cwd, file)
    return str(caught.value)


# --- where values come from ------------------------------------------------------------------


def test_defaults_alone(cwd: Path) -> None:
    effective = load({}, {"PATH": "/bin"}, cwd)
    assert (effective.settings.workers, effective.settings.max_connections) == (2, 2)
    assert set(effective.sources.values()) == {"default"}
    assert set(effective.sources) == {*SPECS, "engines"}


def test_flags_beat_environment_beats_file_beats_defaults(cwd: Path) -> None:
    written(cwd, "[server]\nport = 1\nhost = '127.0.0.2'\nhead_timeout = '2s'\n")
    environ = {"VOICEPOOL_PORT": "2", "VOICEPOOL_HOST": "127.0.0.3"}
    effective = load({"port": "3"}, environ, cwd)
    settings, sources = effective.settings, effective.sources
    assert (settings.port, sources["port"]) == (3, "--port")
    assert (settings.host, sources["host"]) == ("127.0.0.3", "VOICEPOOL_HOST")
    assert (settings.head_timeout, sources["head_timeout"]) == (2.0, "voicepool.toml:4")
    assert (settings.max_heads, sources["max_heads"]) == (1024, "default")


@pytest.mark.parametrize("name", SPECS)
def test_every_setting_can_be_set_from_every_source(cwd: Path, name: str) -> None:
    spec = SPECS[name]
    text, toml, value = {
        "text": ("embedded", '"embedded"', "embedded"),
        "choice": (spec.choices[-1:][0] if spec.choices else "", "", ""),
        "integer": ("7", "7", 7),
        "number": ("7m", '"7m"', 420.0),
        "bytes": ("7MiB", '"7MiB"', 7 << 20),
        "boolean": ("true", "true", True),
        "list": (KEY, f'["{KEY}"]', (KEY,)),
    }[spec.kind]
    if spec.kind == "choice":
        toml, value = f'"{text}"', text
    if name == "gpus":
        text, toml, value = "0,GPU-5a", '"0,GPU-5a"', "0,GPU-5a"
    if name == "app":
        text, toml, value = "a.b:c", '"a.b:c"', "a.b:c"
    if name in ("host", "trusted_proxies"):
        text, toml = "127.0.0.9", '"127.0.0.9"' if name == "host" else '["127.0.0.9"]'
        value = "127.0.0.9" if name == "host" else ("127.0.0.9",)
    if name == "allowed_origins":
        text, toml, value = "https://a.b", '["https://a.b"]', ("https://a.b",)
    rest = {
        "heartbeat_interval": {"heartbeat_timeout": "8m"},
        "proxy_protocol": {"trusted_proxies": "127.0.0.9"},
        "tls_cert": {"tls_key": "key.pem"},
        "tls_key": {"tls_cert": "cert.pem"},
    }.get(name, {})

    def told(effective: Effective) -> object:
        return getattr(effective.settings, name)

    assert told(load(rest, {spec.env: text}, cwd)) == value
    if spec.flag is not None:
        assert told(load({**rest, name: text}, {}, cwd)) == value
    written(cwd, f"[{spec.section}]\n{name} = {toml}\n")
    effective = load(rest, {}, cwd)
    assert told(effective) == value
    assert effective.sources[name] == "voicepool.toml:2"


def test_max_connections_has_a_short_environment_name_that_the_long_one_beats(cwd: Path) -> None:
    short = load({}, {"MAX_CONNECTIONS": "5"}, cwd)
    assert short.settings.max_connections == 5
    assert short.sources["max_connections"] == "MAX_CONNECTIONS"
    both = load({}, {"MAX_CONNECTIONS": "5", "VOICEPOOL_MAX_CONNECTIONS": "6"}, cwd)
    assert both.settings.max_connections == 6


def test_a_named_file_is_read_instead_of_the_default_one(cwd: Path) -> None:
    written(cwd, "[server]\nport = 1\n")
    (cwd / "other.toml").write_text("[server]\nport = 2\n")
    assert load({}, {}, cwd, "other.toml").settings.port == 2
    assert load({}, {"VOICEPOOL_CONFIG": str(cwd / "other.toml")}, cwd).settings.port == 2


def test_engine_tables_are_kept_as_written(cwd: Path) -> None:
    written(cwd, '[llm]\nengine = "ollama"\nmodel = "m"\noptions = { num_ctx = 4096 }\n')
    effective = load({}, {}, cwd)
    assert effective.settings.engines == {
        "llm": {"engine": "ollama", "model": "m", "options": {"num_ctx": 4096}}
    }
    assert effective.sources["engines"] == "voicepool.toml"


def test_what_kubernetes_says_about_a_service_of_our_name_is_ignored(cwd: Path) -> None:
    links = {
        "VOICEPOOL_SERVICE_HOST": "10.0.0.1",
        "VOICEPOOL_SERVICE_PORT": "8000",
        "VOICEPOOL_SERVICE_PORT_HTTP": "8000",
        "VOICEPOOL_PORT": "tcp://10.0.0.1:8000",
        "VOICEPOOL_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "VOICEPOOL_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert load({}, links, cwd).sources["port"] == "default"
    assert load({}, {**links, "VOICEPOOL_PORT": "81"}, cwd).settings.port == 81
    assert "VOICEPOOL_PORT" in complaint(cwd, environ={"VOICEPOOL_PORT": "tcp://10.0.0.1:8000"})


def test_what_cuda_may_see_is_what_voicepool_was_started_with(cwd: Path) -> None:
    assert load({}, {}, cwd).settings.visible_gpus is None
    assert load({}, {"CUDA_VISIBLE_DEVICES": ""}, cwd).settings.visible_gpus == ""
    assert load({}, {"CUDA_VISIBLE_DEVICES": "1"}, cwd).settings.visible_gpus == "1"


@pytest.mark.parametrize("gpus", ["auto", "none", "0", "0,1", "0:1, GPU-5a-b", "MIG-GPU-5a/1/0"])
def test_ways_to_name_gpus(cwd: Path, gpus: str) -> None:
    assert load({"gpus": gpus}, {}, cwd).settings.gpus == gpus


@pytest.mark.parametrize("gpus", ["", "all", "0,", "auto,1", "-1", "cuda:0"])
def test_gpus_that_are_named_wrongly(cwd: Path, gpus: str) -> None:
    assert "gpus (--gpus): expected auto, none, or a list" in complaint(cwd, {"gpus": gpus})


# --- sizing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sized", "follower"),
    [
        ({"workers": "3"}, (3, 3), ("max_connections", "follows workers")),
        ({"max_connections": "9"}, (9, 9), ("workers", "follows max_connections")),
        ({"workers": "3", "max_connections": "9"}, (3, 9), ("workers", "--workers")),
    ],
)
def test_workers_and_max_connections_follow_each_other(
    cwd: Path, flags: dict[str, str], sized: tuple[int, int], follower: tuple[str, str]
) -> None:
    effective = load(flags, {}, cwd)
    assert (effective.settings.workers, effective.settings.max_connections) == sized
    assert effective.sources[follower[0]] == follower[1]


def test_more_workers_than_callers_is_an_error_with_both_remedies(cwd: Path) -> None:
    message = complaint(cwd, {"workers": "4"}, {"MAX_CONNECTIONS": "3"})
    assert message == (
        "workers is 4 (--workers) but max_connections is 3 (MAX_CONNECTIONS): more warm workers "
        "than callers would never be used; raise max_connections to 4 or lower workers to 3"
    )


# --- what a user is told ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[server]\nprot = 1", "voicepool.toml:2: prot: no such setting; did you mean port?"),
        ("[sever]\nport = 1", "voicepool.toml:1: [sever]: no such table; did you mean server?"),
        ("[pool]\nport = 1", "voicepool.toml:2: port: belongs in the table [server]"),
        ("port = 1", "voicepool.toml:1: port: belongs in the table [server]"),
        ("server = 1", "voicepool.toml:1: server: expected a table, [server]"),
        (
            "# a\n\n[server]\nport = '80'",
            "voicepool.toml:4: port: expected a whole number from 0 to 65535, got '80'",
        ),
        (
            "[server]\nport = true",
            "voicepool.toml:2: port: expected a whole number from 0 to 65535, got True",
        ),
        (
            "[pool]\nstrict = 1",
            "voicepool.toml:2: strict: expected true or false, got 1",
        ),
        (
            "[pool]\nqueue_timeout = nan",
            f"voicepool.toml:2: queue_timeout: expected {DURATION}, 0 or more, got nan",
        ),
        (
            "[pool]\ncall_limit = 1e300",
            f"voicepool.toml:2: call_limit: expected {DURATION}, more than 0, got 1e+300",
        ),
        (
            '[server]\nkeys_file = "a\\u0000"',
            "voicepool.toml:2: keys_file: expected text, got 'a\\x00'",
        ),
        (  # a worker that says more is taken for hostile: see handles.MESSAGES_A_SECOND
            "[pool]\nheartbeat_interval = 0.02",
            f"voicepool.toml:2: heartbeat_interval: expected {DURATION}, 0.05 or more, got 0.02",
        ),
        (
            "[log]\nlog_level = 'loud'",
            "voicepool.toml:2: log_level: expected one of debug, info, warning, error, got 'loud'",
        ),
        (
            "[server]\nallowed_hosts = [1]",
            "voicepool.toml:2: allowed_hosts: expected a list of texts, got [1]",
        ),
        ("[llm]\nengine = 3", 'voicepool.toml:1: llm: expected a table such as engine = "name"'),
    ],
)
def test_a_wrong_file(cwd: Path, toml: str, message: str) -> None:
    assert complaint(written(cwd, toml)) == message


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        (
            {},
            {"VOICEPOOL_WORKRES": "2"},
            "VOICEPOOL_WORKRES: no such setting; did you mean VOICEPOOL_WORKERS?",
        ),
        ({}, {"VOICEPOOL_XYZZY": "2"}, "VOICEPOOL_XYZZY: no such setting"),
        (
            {},
            {"MAX_CONNECTIONS": "many"},
            "MAX_CONNECTIONS: expected a whole number from 1 to 4096, got 'many'",
        ),
        (
            {"port": "70000"},
            {},
            "--port: expected a whole number from 0 to 65535, got '70000'",
        ),
        (
            {"call_limit": "0"},
            {},
            f"--call-limit: expected {DURATION}, more than 0, got '0'",
        ),
        (
            {"address_rate": "-1"},
            {},
            "--address-rate: expected a whole number from 0 to 1000000, got '-1'",
        ),
        (
            {"max_message_size": "1"},
            {},
            f"--max-message-size: expected {SIZE}, from 256 KiB to 64 MiB, got '1'",
        ),
        (
            {"ram_reserve": "2G"},
            {},
            f"--ram-reserve: expected {SIZE}, 0 or more, got '2G'",
        ),
    ],
)
def test_a_wrong_flag_or_variable(
    cwd: Path, flags: dict[str, str], environ: dict[str, str], message: str
) -> None:
    assert complaint(cwd, flags, environ) == message


def test_everything_that_is_wrong_is_said_at_once(cwd: Path) -> None:
    written(cwd, "[server]\nprot = 1\n")
    lines = complaint(cwd, {"workers": "0"}, {"VOICEPOOL_STRICT": "perhaps"}).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "voicepool.toml",
        "VOICEPOOL_STRICT",
        "--workers",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[server\n", "voicepool.toml: not valid TOML: "),
        (b"\xff\xfe", "voicepool.toml: not UTF-8 text"),
        (b"a = 1" + 5000 * b"0", "voicepool.toml: not a configuration file: "),
        (b"a = " + 5000 * b"[", "voicepool.toml: not a configuration file: "),
    ],
)
def test_a_file_that_is_no_toml(cwd: Path, content: bytes, message: str) -> None:
    (cwd / "voicepool.toml").write_bytes(content)
    assert complaint(cwd).startswith(message)


def test_a_byte_order_mark_is_none_of_the_text(cwd: Path) -> None:
    (cwd / "voicepool.toml").write_bytes(b"\xef\xbb\xbf[pool]\nworkers = 3\n")
    assert load({}, {}, cwd).settings.workers == 3


def test_a_file_that_is_not_there_or_is_a_folder(cwd: Path) -> None:
    assert complaint(cwd, file="no.toml") == "no.toml: cannot be read: No such file or directory"
    (cwd / "voicepool.toml").mkdir()
    assert complaint(cwd) == "voicepool.toml: cannot be read: Is a directory"


# --- checks across settings ------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_a_public_address_needs_keys_or_consent(cwd: Path, host: str) -> None:
    message = complaint(cwd, {"host": host})
    assert "VOICEPOOL_API_KEYS" in message
    assert "--no-auth" in message
    load({"host": host, "no_auth": "true"}, {}, cwd)
    load({"host": host}, {"VOICEPOOL_API_KEYS": KEY}, cwd)
    load({"host": host}, {"VOICEPOOL_ADMIN_KEYS": KEY}, cwd)
    load({"host": host, "keys_file": "keys"}, {}, cwd)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_loopback_needs_none(cwd: Path, host: str) -> None:
    assert is_loopback(host)
    load({"host": host}, {}, cwd)


@pytest.mark.parametrize("name", ["api_keys", "admin_keys"])
@pytest.mark.parametrize("key", ["short", "has a space in it, long", "schlüssel-mit-umlaut"])
def test_a_weak_key_is_refused_and_never_repeated(cwd: Path, name: str, key: str) -> None:
    written(cwd, f'[server]\n{name} = ["{key}"]\n')
    message = complaint(cwd)
    assert message.startswith(f"{name} (voicepool.toml:2): key 1 must be 16 or more")
    assert key not in message


def test_a_key_of_the_wrong_type_is_never_repeated(cwd: Path) -> None:
    written(cwd, f'[server]\napi_keys = "{KEY}"\n')
    assert complaint(cwd) == "voicepool.toml:2: api_keys: expected a list of texts"


@pytest.mark.parametrize(
    ("flags", "start"),
    [
        ({"heartbeat_interval": "20"}, "heartbeat_timeout (default) must be longer than"),
        (
            {"ram_soft_limit": "2GB", "ram_hard_limit": "1GB"},
            "ram_hard_limit (--ram-hard-limit) must not be below",
        ),
        (
            {"vram_soft_limit": "2GB", "vram_hard_limit": "1GB"},
            "vram_hard_limit (--vram-hard-limit) must not be below",
        ),
        ({"trusted_proxies": "10.0.0.0/8,proxy"}, "trusted_proxies (--trusted-proxies): 'proxy'"),
        (
            {"proxy_protocol": "yes"},
            "proxy_protocol (--proxy-protocol) takes trusted_proxies",
        ),
        *(
            ({"allowed_hosts": f"ours.example,{name}"}, "allowed_hosts (--allowed-hosts): expected")
            for name in ("https://a.example", "a.example:8000", "a.example/")
        ),
        *(
            ({"allowed_origins": f"*,{origin}"}, "allowed_origins (--allowed-origins): expected")
            for origin in ("a.example", "https://a.example/page", "https://")
        ),
        ({"app": "module"}, "app (--app): expected package.module:factory, got 'module'"),
    ],
)
def test_values_that_contradict_each_other(cwd: Path, flags: dict[str, str], start: str) -> None:
    assert complaint(cwd, flags).startswith(start)


def test_hosts_and_origins_that_requests_can_name(cwd: Path) -> None:
    origins = "*,null,https://a.example,http://A.example:80/,http://[::1]:80,tauri://x"
    load({"allowed_hosts": "*,a.example,::1,[::1]", "allowed_origins": origins}, {}, cwd)
