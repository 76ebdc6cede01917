"""What the doctor makes of voicepool as a service: each finding, its mark and its remedy; and its
looks that need no systemd. With one: test_systemd_service.py."""

from __future__ import annotations

import math
import os
import pwd
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import voicepool
from tests.pools import PoolServer
from voicepool import farewells, unit
from voicepool.config import Settings
from voicepool.doctor import fit, judge, judgeservice, judgeunit, report, service
from voicepool.doctor.findings import Finding, Mark, Report, Section, problem
from voicepool.doctor.judgeservice import Plan
from voicepool.doctor.servicefacts import Container, Disk, File, Port, Program, Service, Unit, span

MIB = 1 << 20
SETTINGS = Settings(profile="embedded")
PLAN = Plan(SETTINGS)
RUNNING = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "FragmentPath": "/etc/systemd/system/voicepool.service",
    "StatusText": "0 calls of at most 2, 2 idle, 0 waiting",
    "Result": "success",
    "NRestarts": "0",
    "NeedDaemonReload": "no",
    "User": "voicepool",
    "MainPID": "70",
    "TimeoutStopUSec": "1min 3s",
    "WatchdogUSec": "30s",
    "LimitNOFILE": "65536",
    "TasksMax": "32768",
    "MemoryMax": "infinity",
    "MemoryHigh": "infinity",
}
GOOD = Service(
    booted=True,
    systemd=252,
    unit=Unit(unit.service(unit.STANDARD, SETTINGS), RUNNING),
    socket=Unit(
        unit.socket(SETTINGS), {"ActiveState": "active", "Listen": "127.0.0.1:8000 (Stream)"}
    ),
    program=Program(voicepool.__version__),
    files=(
        File("/etc/voicepool/voicepool.toml", "settings", 0o640, readable=True),
        File("/etc/voicepool/environment", "environment", 0o600),
    ),
    disks=(Disk("/var/log/journal", "the journal", 10_000 * MIB, 5_000 * MIB),),
    port=Port("127.0.0.1:8000", True, 70, "voicepool", answers=True, version=voicepool.__version__),
)


def shown(**properties: str) -> Service:
    """The good one, but for these properties of its unit."""
    return changed(unit=Unit(GOOD.unit.text, {**RUNNING, **properties}))


def changed(**fields: Any) -> Service:
    return msgspec.structs.replace(GOOD, **fields)


def unlike(found: Service, plan: Plan = PLAN) -> list[Finding]:
    """The findings that are not "ok"; all problems have a remedy."""
    findings = [f for f in judgeservice.judge(found, plan) if f.mark is not Mark.OK]
    assert all(finding.remedy for finding in findings)
    return findings


def only(found: Service, plan: Plan = PLAN) -> Finding:
    (finding,) = unlike(found, plan)
    return finding


# --- what is well ----------------------------------------------------------------------------


def test_a_good_service_is_fine() -> None:
    assert unlike(GOOD) == []
    texts = [finding.text for finding in judgeservice.judge(GOOD, PLAN)]
    assert 'it is active (running): "0 calls of at most 2, 2 idle, 0 waiting"' in texts
    assert f"voicepool {voicepool.__version__} answers on 127.0.0.1:8000" in texts


def test_a_host_without_a_systemd_has_nothing_to_say_but_of_a_unit() -> None:
    assert judgeservice.judge(Service(booted=False), PLAN) == []
    assert "systemd does not run here" in unlike_text(Service(booted=False, unit=GOOD.unit))


def unlike_text(found: Service) -> str:
    (finding,) = judgeservice.judge(found, PLAN)
    return finding.text


# --- systemd and the unit --------------------------------------------------------------------


def test_reload_waits_from_253_on() -> None:
    first, *_ = judgeservice.judge(GOOD, PLAN)
    assert "systemd 252; `systemctl reload` returns before" in first.text
    newer = changed(
        systemd=253,
        unit=Unit(unit.service(replace(unit.STANDARD, systemd=253), SETTINGS), RUNNING),
    )
    assert judgeservice.judge(newer, PLAN)[0].text == "systemd 253"
    assert unlike(newer) == []
    # One that was printed before an upgrade of systemd.
    assert "+Type=notify-reload" in only(changed(systemd=253)).text


def test_systemd_that_is_too_old_or_does_not_answer() -> None:
    assert only(changed(systemd=239)).mark is Mark.NOTE
    silent = Service(booted=True, error="systemctl took more than 10 s")
    assert "does not answer: systemctl took more than 10 s" in only(silent).text


def test_a_service_that_is_not_installed() -> None:
    found = only(Service(booted=True, systemd=252, unit=Unit("", {"LoadState": "not-found"})))
    assert (found.mark, found.remedy) == (Mark.NOTE, "sudo scripts/install")


@pytest.mark.parametrize(
    ("properties", "words", "mark", "remedy"),
    [
        ({"UnitFileState": "disabled"}, "not enabled (disabled)", Mark.NOTE, "systemctl enable"),
        ({"UnitFileState": "masked"}, "masked", Mark.PROBLEM, "unmask"),
        ({"NeedDaemonReload": "yes"}, "changed on the disk", Mark.NOTE, "daemon-reload"),
        ({"NRestarts": "3", "Result": "watchdog"}, "anew 3 times; the watchdog", Mark.NOTE, "jour"),
        ({"User": ""}, "it runs as root", Mark.NOTE, "User=voicepool"),
        ({"WatchdogUSec": "0"}, "no watchdog", Mark.NOTE, "WatchdogSec=30"),
        ({"WatchdogUSec": "infinity"}, "no watchdog", Mark.NOTE, "WatchdogSec=30"),
        ({"TimeoutStopUSec": "20s"}, "is 20 s, and a drain takes up to 48 s", Mark.NOTE, "=63"),
        ({"LimitNOFILE": "1024"}, "LimitNOFILE is 1024, and it takes 1", Mark.PROBLEM, "=65536"),
        ({"TasksMax": "50"}, "TasksMax is 50, and all workers", Mark.PROBLEM, "=32768"),
        ({"ProcSubset": "pid"}, "hides /proc/meminfo", Mark.PROBLEM, "ProcSubset=all"),
    ],
)
def test_what_is_special_about_a_unit(
    properties: dict[str, str], words: str, mark: Mark, remedy: str
) -> None:
    found = only(shown(**properties))
    assert words in found.text
    assert found.mark is mark
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"ExecMainCode": "1", "ExecMainStatus": "2"}, "code 2, a wrong setting (exit-code)"),
        ({"ExecMainCode": "1", "ExecMainStatus": "3"}, "code 3, the address or the runtime folder"),
        ({"ExecMainCode": "1", "ExecMainStatus": "217"}, "code 217, there is no such user"),
        ({"ExecMainCode": "1", "ExecMainStatus": "77"}, "code 77 (exit-code)"),
        ({"ExecMainCode": "2", "Result": "oom-kill"}, "for want of memory (oom-kill)"),
        ({"ExecMainCode": "3", "ExecMainStatus": "6", "Result": "core-dump"}, "ended (core-dump)"),
        ({"Result": "start-limit-hit"}, "failed too often in a short time"),
    ],
)
def test_a_failure_is_explained(properties: dict[str, str], words: str) -> None:
    failed = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", **properties}
    found = next(f for f in unlike(shown(**failed)) if f.text.startswith("it is failed"))
    assert words in found.text
    assert found.mark is Mark.PROBLEM
    assert "journalctl" in found.remedy
    assert "reset-failed" in found.remedy


def test_a_stopped_service_can_be_started() -> None:
    stopped = msgspec.structs.replace(
        shown(ActiveState="inactive", SubState="dead"),
        port=Port("127.0.0.1:8000", True, 1, "systemd"),
    )
    assert "systemctl start" in only(stopped).remedy


# --- programs and people ---------------------------------------------------------------------


def test_the_program_of_the_unit() -> None:
    older = only(changed(program=Program("0.0.1"), port=None))
    assert f"voicepool 0.0.1, and this doctor is of {voicepool.__version__}" in older.text
    assert "systemctl reload" in older.remedy
    assert "took too long" in only(changed(program=Program(), port=None)).text
    broken = only(changed(program=Program(error="cannot be run: Permission denied"), port=None))
    assert broken.mark is Mark.PROBLEM
    assert "/opt/voicepool/bin/voicepool, which the unit starts, cannot be run" in broken.text


def test_a_server_that_has_not_been_restarted_since_an_upgrade() -> None:
    assert GOOD.port is not None
    port = msgspec.structs.replace(GOOD.port, version="0.0.1")
    found = only(changed(port=port))
    assert "voicepool 0.0.1 answers on 127.0.0.1:8000, which is not what is" in found.text


def test_a_user_that_is_not_there() -> None:
    assert "useradd --system --user-group voicepool" in only(changed(user=False)).remedy


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (File("/x", "settings", 0o600, readable=False), "cannot be read by the service's user"),
        (File("/x", "environment", 0o644), "can be read by everybody"),
        (File("/x", "key", 0o644, readable=True), "can be read by everybody"),
        (File("/x", "settings", there=False), "does not exist"),
        (File("/x", "certificate", there=False), "does not exist"),
        (File("/x", "keys", 0o644, readable=True), "can be read by everybody"),
        (File("/x", "keys", 0o600, readable=False), "cannot be read by the service's user"),
    ],
)
def test_files_that_are_amiss(file: File, words: str) -> None:
    found = only(changed(files=(file,)))
    assert words in found.text
    assert found.mark is Mark.PROBLEM


def test_a_keys_file_is_made_by_the_program() -> None:
    found = only(changed(files=(File("/x", "keys", there=False),)))
    assert found.remedy == "sudo /opt/voicepool/bin/voicepool key new NAME --file /x"


def test_files_that_are_well() -> None:
    files = (File("/x", "environment", there=False), File("/y", "settings", 0o644), File("/z", "k"))
    assert unlike(changed(files=files)) == []


def test_keys_in_a_file_that_all_may_read() -> None:
    files = (File("/x", "settings", 0o644, readable=True),)
    with_keys = replace(PLAN, settings=replace(SETTINGS, api_keys=("k" * 20,)))
    found = only(changed(files=files), with_keys)
    assert "can be read by everybody" in found.text
    assert "k" * 20 not in found.text


def test_settings_that_cannot_be_judged_are_said_and_not_guessed() -> None:
    wrong = Plan(SETTINGS, "x.toml:1: wokers: no such setting", known=False)
    assert only(GOOD, wrong).mark is Mark.PROBLEM
    hidden = Plan(SETTINGS, "x.toml: cannot be read: Permission denied", known=False)
    assert only(GOOD, hidden).remedy == "sudo /opt/voicepool/bin/voicepool doctor"
    # Of the limits nothing is said, for they depend on the settings.
    assert not any("LimitNOFILE" in f.text for f in judgeservice.judge(GOOD, hidden))


def test_a_disk_that_is_full() -> None:
    found = only(changed(disks=(Disk("/var/log/journal", "the journal", 10_000 * MIB, MIB),)))
    assert "journalctl --vacuum-size" in found.remedy
    assert "df -h /run" in only(changed(disks=(Disk("/run", "it", 900 * MIB, MIB),))).remedy


# --- lines -----------------------------------------------------------------------------------


def test_lines_that_differ_are_named() -> None:
    found = only(GOOD, replace(PLAN, settings=replace(SETTINGS, drain_timeout=25.0)))
    assert "-TimeoutStopSec=63, +TimeoutStopSec=58" in found.text
    assert found.mark is Mark.NOTE


def test_comments_and_blank_lines_are_no_difference() -> None:
    assert judgeunit.differences("# a\n\n[X]\nA=1\n", "[X]\n; b\nA=1") == []
    assert judgeunit.differences("A=1\nB=2", "A=1\nC=3") == ["-B=2", "+C=3"]


def test_many_differing_lines_are_counted() -> None:
    text = unit.service(unit.STANDARD, SETTINGS).replace("Protect", "Prefect")
    assert "more" in only(changed(unit=Unit(text, RUNNING))).text


def test_drop_ins_are_noted() -> None:
    path = "/etc/systemd/system/voicepool.service.d/override.conf"
    findings = judgeservice.judge(shown(DropInPaths=path), PLAN)
    assert any("changed by override.conf" in finding.text for finding in findings)


def test_a_unit_of_ones_own_is_not_compared() -> None:
    own = changed(unit=Unit("[Service]\nExecStart=/bin/mine", RUNNING))
    assert "does not start voicepool in the way" in only(own).text


def test_a_socket_elsewhere_than_the_settings_say() -> None:
    elsewhere = Unit(GOOD.socket.text, {"ActiveState": "active", "Listen": "0.0.0.0:1 (Stream)"})
    found = only(changed(socket=elsewhere))
    assert "listens on 0.0.0.0:1, but host and port of the settings are 127.0.0.1:8000" in (
        found.text
    )
    assert "restart voicepool.socket" in found.remedy
    # That nobody is at the other address follows from it.
    assert only(changed(socket=elsewhere, port=Port("127.0.0.1:8000"))) == found


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "mark", "words"),
    [
        ({"MemoryMax": str(600 * MIB)}, Mark.PROBLEM, "and the first worker takes"),
        ({"MemoryMax": str(900 * MIB)}, Mark.NOTE, "fewer are kept warm"),
        ({"MemoryHigh": str(600 * MIB)}, Mark.NOTE, "the budget does not know of it"),
    ],
)
def test_memory_of_the_unit(properties: dict[str, str], mark: Mark, words: str) -> None:
    found = only(shown(**properties))
    assert found.mark is mark
    assert words in found.text


# --- GPUs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "PrivateDevices=yes",
        "ProtectClock=yes",
        "MemoryDenyWriteExecute=yes",
        "PrivateUsers=yes",
        "DevicePolicy=closed",
    ],
)
def test_lines_that_hide_gpus_are_problems_where_one_is_needed(line: str) -> None:
    name, _, value = line.partition("=")
    needs = replace(PLAN, gpus=True, needs_gpu=True)
    found = msgspec.structs.replace(shown(**{name: value}), persistenced=True)
    assert only(found, needs).text.startswith(f"{line} ")
    assert only(found, needs).mark is Mark.PROBLEM
    assert only(found, replace(needs, needs_gpu=False)).mark is Mark.NOTE
    assert unlike(found, PLAN) == []


def test_devices_that_are_allowed_are_not_hidden() -> None:
    allowed = shown(DevicePolicy="closed", DeviceAllow="char-nvidia rw")
    found = msgspec.structs.replace(allowed, persistenced=True)
    assert unlike(found, replace(PLAN, gpus=True)) == []


def test_nvidia_persistenced_is_advised() -> None:
    assert "enable --now nvidia-persistenced" in only(GOOD, replace(PLAN, gpus=True)).remedy


# --- the address -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (Port("a:1"), "nobody listens on a:1, though it is active"),
        (Port("a:1", True, 9, "nginx"), "nginx (pid 9) listens on a:1"),
        (Port("a:1", True), "somebody who may not be seen from here listens on a:1"),
    ],
)
def test_an_address_that_is_not_the_services(port: Port, words: str) -> None:
    found = only(changed(port=port))
    assert words in found.text
    assert found.mark is Mark.PROBLEM


def test_a_service_that_does_not_answer() -> None:
    assert "but does not answer" in only(changed(port=Port("a:1", True, 70, "x"))).text


def test_a_service_that_takes_proxy_headers_is_not_taken_for_hung_or_another() -> None:
    for port in (Port("a:1", True, 70, "x", asked=False), Port("a:1", True, asked=False)):
        assert unlike(changed(port=port)) == []
    other = only(changed(port=Port("a:1", True, 9, "nginx", asked=False)))
    assert "nginx (pid 9) listens on a:1" in other.text


def test_another_voicepool_is_named_where_the_service_is_down() -> None:
    stopped = msgspec.structs.replace(
        shown(ActiveState="inactive"),
        socket=Unit(),
        port=Port("a:1", True, 9, "python", answers=True, version="0.3.0"),
    )
    _, found = unlike(stopped)
    assert "another voicepool 0.3.0 listens on a:1" in found.text
    assert found.mark is Mark.PROBLEM


# --- containers ------------------------------------------------------------------------------


def box(kind: str = "docker", **settings: Any) -> list[Finding]:
    found = Container(kind, own_pids=True, limit=None)
    given = replace(SETTINGS, **{"host": "0.0.0.0", "api_keys": ("k",), **settings})
    gpus = given.profile == "cuda"
    findings = [*judgeservice.judge_container(found, given, gpus=gpus)]
    return [finding for finding in findings if finding.mark is not Mark.OK]


def test_a_container_and_its_time_to_stop() -> None:
    (found,) = box()
    assert "takes up to 35 s, and it is killed after 10 s" in found.text
    assert "--stop-timeout 40" in found.remedy
    (pod,) = box("kubernetes")
    assert pod.remedy == "terminationGracePeriodSeconds: 40"
    assert box("kubernetes", drain_timeout=20.0) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "127.0.0.1"}, "which is this container's own"),
        ({"api_keys": ()}, "anyone may call"),
        ({"profile": "cuda"}, "what workers take of VRAM is inferred"),
    ],
)
def test_what_a_container_lacks(settings: dict[str, Any], words: str) -> None:
    _, found = box(**settings)
    assert words in found.text
    assert found.mark is Mark.NOTE
    assert found.remedy


def test_a_containers_memory() -> None:
    limited = Container("podman", own_pids=False, limit=2 << 30)
    texts = [f.text for f in judgeservice.judge_container(limited, SETTINGS, gpus=False)]
    assert "a memory limit of 2 GiB, by which the budget goes" in texts


# --- sums ------------------------------------------------------------------------------------


def test_open_files_that_are_needed() -> None:
    assert fit.FAREWELLS == farewells.MAX_FAREWELLS
    plain = Settings(max_heads=100, max_waiting=50, max_connections=10, spare=2)
    assert fit.files_needed(plain) == 64 + 5 * 12 + 50 + 100 + 2 * 256
    # A relay keeps a pair for every call.
    assert fit.files_needed(replace(plain, tls_cert="x")) == 64 + 2 * (12 + 50 + 100 + 2 * 256)
    assert fit.files_needed(Settings()) < 65_536


def test_files_that_a_worker_costs_the_supervisor(start_pool: Callable[..., PoolServer]) -> None:
    def files(server: PoolServer) -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))  # noqa: PTH208

    one, three = start_pool(workers=1), start_pool(workers=3)
    one.until_idle()
    three.until_idle()
    # Who has just asked for the status may still be on the way out.
    three.until(
        lambda: files(three) - files(one) == 2 * fit.FILES_PER_WORKER, "held as many more files"
    )


def test_the_shells_limit_is_judged_by_the_same_sum(host_with: Callable[[int], Any]) -> None:
    need = fit.files_needed(SETTINGS)
    (few,) = [f for f in judge.judge_host(host_with(need - 1), SETTINGS) if "open" in f.text]
    (enough,) = [f for f in judge.judge_host(host_with(need), SETTINGS) if "open" in f.text]
    assert (few.mark, enough.mark) == (Mark.NOTE, Mark.OK)
    assert str(need) in few.text


@pytest.fixture
def host_with() -> Callable[[int], Any]:
    from tests.test_doctor import host

    return lambda files: host(files=files)


def test_time_spans_of_systemd() -> None:
    texts = ("1min 3s", "500ms", "30min 2s", "2h", "1d 1h", "0", "infinity")
    seconds = [span(text) for text in texts]
    assert seconds == [63, 0.5, 1802, 7200, 90_000, 0, math.inf]
    assert span("soon") is span("") is span("3 parsecs") is None


def test_the_verdict_names_the_service() -> None:
    sick = Section("service", [problem("x", "y")])
    assert "keeps the service from running" in report.as_text(
        Report("cpu", "", [sick]), color=False, width=80
    )


# --- looks -----------------------------------------------------------------------------------


def test_a_program_says_its_version_or_why_it_does_not(tmp_path: Path) -> None:
    python = (sys.executable, "-m", "voicepool")
    assert service.program(python) == Program(voicepool.__version__)
    assert service.program(("/nowhere",)).error == "cannot be run: No such file or directory"
    silly = tmp_path / "silly"
    silly.write_text("#!/bin/sh\necho no such module >&2\n")
    silly.chmod(0o755)
    assert service.program((str(silly),)).error == "does not say its version: no such module"


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def look(port: int, **settings: Any) -> Port:
    return service.port(Settings(port=port, **settings), Unit(), Unit())


def test_who_has_the_port(taken: socket.socket) -> None:
    number = taken.getsockname()[1]

    def refuse() -> None:
        client, _ = taken.accept()
        client.recv(1000)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
        client.close()

    server = threading.Thread(target=refuse)
    server.start()
    found = look(number)
    server.join()
    assert (found.taken, found.pid, found.answers) == (True, os.getpid(), False)
    taken.close()
    assert look(number) == Port(f"127.0.0.1:{number}")


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
def test_an_address_is_known_however_it_is_written(host: str) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        number = listener.getsockname()[1]
        found = look(number, host=host, proxy_protocol=True, trusted_proxies=("192.0.2.1",))
    assert (found.taken, found.address) == (True, f"[::1]:{number}")


def test_a_socket_that_waits_for_its_service_is_not_called(taken: socket.socket) -> None:
    kept = Unit("", {"ActiveState": "active"})
    assert service.port(Settings(port=taken.getsockname()[1]), Unit(), kept).taken
    taken.setblocking(False)
    with pytest.raises(BlockingIOError):
        taken.accept()


def test_a_server_behind_proxies_is_not_asked(taken: socket.socket) -> None:
    number = taken.getsockname()[1]
    found = look(number, proxy_protocol=True, trusted_proxies=("192.0.2.1",))
    assert (found.taken, found.asked) == (True, False)
    taken.setblocking(False)
    with pytest.raises(BlockingIOError):
        taken.accept()


def test_a_running_voicepool_says_its_version(start_pool: Callable[..., PoolServer]) -> None:
    key = "k" * 20
    server = start_pool(workers=1, admin_keys=[key])
    found = look(server.address[1], admin_keys=(key,))
    # The key is for the service's own process alone.
    assert (found.pid, found.answers, found.version) == (server.pid, True, "")
    ours = Unit("", {"ActiveState": "active", "MainPID": str(server.pid)})
    settings = Settings(port=server.address[1], admin_keys=(key,))
    assert service.port(settings, ours, Unit()).version == voicepool.__version__


def test_what_a_user_can_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert service.file(path, "key", None) == File(str(path), "key", there=False)
    path.touch(0o600)
    me = pwd.getpwuid(os.geteuid())
    assert service.file(path, "key", me) == File(str(path), "key", 0o600, readable=True)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        assert service.file(path, "key", nobody).readable is False


def test_a_cluster_is_known_by_its_environment() -> None:
    found = service.container({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert found is not None
    assert found.kind == "kubernetes"
