"""Who may import whom. The rules are the architecture: breaking one is a design change."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "voicepool"

_WORLD = """
    asyncio concurrent contextvars ctypes datetime fcntl http io logging mmap multiprocessing
    os pathlib queue resource secrets select selectors shutil signal socket ssl subprocess sys
    tempfile threading time urllib uuid
"""
WORLD = frozenset(_WORLD.split())
"""Standard modules that know the outside: what is pure has its clock and its chance given."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imported(module: str, *, lazily: bool = False) -> frozenset[str]:
    """What `module` imports when it runs; with `lazily`, inside its functions as well."""
    tree = ast.parse(modules()[module].read_text())
    return frozenset(_imports(tree, lazily))


def _imports(node: ast.AST, lazily: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            for alias in child.names:
                name = f"{base}.{alias.name}"
                yield name if name in modules() else base
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif lazily or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(child, lazily)


def closure(*starts: str) -> tuple[set[str], set[str]]:
    """The modules of ours that importing `starts` runs, and the top names of all others."""
    ours: set[str] = set()
    others: set[str] = set()
    todo = list(starts)
    while todo:
        module = todo.pop()
        if module in ours:
            continue
        ours.add(module)
        for name in imported(module):
            if name.split(".")[0] == PACKAGE:
                todo.append(name)
            else:
                others.add(name.split(".")[0])
    return ours, others


def package(name: str) -> list[str]:
    return [module for module in modules() if module == name or module.startswith(f"{name}.")]


def third_party(names: set[str]) -> set[str]:
    return {name for name in names if name not in sys.stdlib_module_names}


# --- the pure core ---------------------------------------------------------------------------


def test_the_pool_needs_nothing_but_the_standard_library() -> None:
    ours, others = closure("voicepool.pool")
    assert third_party(others) == set()
    assert not others & WORLD
    parts = (
        "pool poolspec pooltables poolstate poolview roster staffing footprints backoff deadlines"
        " budget budgetspec errors"
    )
    assert ours <= {PACKAGE, *(f"voicepool.{part}" for part in parts.split())}


@pytest.mark.parametrize(
    ("starts", "libraries"),
    [
        (["voicepool.budget", "voicepool.attribution", "voicepool.gpu"], set()),
        (["voicepool.turns"], {"numpy"}),
        (["voicepool.completeness", "voicepool.patience"], set()),
        (package("voicepool.wire"), {"msgspec", "numpy", "soxr"}),
        (["voicepool.request", "voicepool.answers"], {"h11", "msgspec"}),
        (["voicepool.access"], {"h11"}),
        (["voicepool.addresses", "voicepool.proxyheader"], set()),
        (["voicepool.newcomers", "voicepool.ratelimits"], set()),
        (["voicepool.openaiapi"], {"h11", "msgspec"}),
        (["voicepool.clientsecrets", "voicepool.allowance"], set()),
        (["voicepool.idleness"], set()),
        (["voicepool.keys"], set()),
        (["voicepool.dialogue"], set()),
        (["voicepool.chronicle"], set()),
        (["voicepool.sentences", "voicepool.quantities"], set()),
        (package("voicepool.spoken"), {"babel", "num2words"}),
    ],
)
def test_pure_modules_do_not_know_the_world(starts: list[str], libraries: set[str]) -> None:
    _, others = closure(*starts)
    # answers.py formats dates with email.utils and names statuses with http: neither does I/O.
    # spoken makes words of dates that are in a text; keys has days on which keys expire.
    parts = {
        "voicepool.access": {"datetime", "urllib"},
        "voicepool.clientsecrets": {"datetime"},
        "voicepool.keys": {"datetime"},
        "voicepool.spoken": {"datetime"},
        "voicepool.wire": {"urllib"},
    }
    allowed = {"http"}.union(*(parts.get(start, set()) for start in starts))
    assert not others & (WORLD - allowed)
    assert third_party(others) <= libraries


@pytest.mark.parametrize(
    "name",
    [
        "facts",
        "servicefacts",
        "findings",
        "fit",
        "judge",
        "judgegpu",
        "judgeservice",
        "judgeunit",
        "report",
    ],
)
def test_the_doctor_judges_without_looking(name: str) -> None:
    tops = {name.split(".")[0] for name in imported(f"voicepool.doctor.{name}", lazily=True)}
    assert not tops & WORLD
    looks = {f"voicepool.doctor.{look}" for look in ("child", "cuda", "engines", "host", "service")}
    assert not imported(f"voicepool.doctor.{name}", lazily=True) & looks


# --- processes -------------------------------------------------------------------------------


def test_the_supervisor_loads_no_engine_and_no_library_of_one() -> None:
    program = (
        "import sys; before = set(sys.modules);"
        "import voicepool.cli, voicepool.serving, voicepool.startup, voicepool.engines.registry;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}));"
        "print(*sorted(name for name in sys.modules if name.startswith('voicepool')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    loaded, ours = (set(line.split()) for line in done.stdout.splitlines())
    # The few that it has a use for. No websockets: it only peeks at heads, with h11.
    assert third_party(loaded) <= {
        *("voicepool", "h11", "msgspec", "psutil", "typing_extensions"),
        "prometheus_client",
    }
    speech = {"app", "worker", "zygote", "session", "pipeline", "speech", "wire", "audio"}
    assert not ours & {f"voicepool.{name}" for name in speech}


def test_the_worker_knows_apps_and_not_speech() -> None:
    ours, others = closure("voicepool.worker")
    assert "voicepool.app" in ours
    forbidden = ("pipeline", "session", "speech", "wire", "engines", "pool", "supervisor")
    assert not {name for name in ours if name.split(".")[1:2] and name.split(".")[1] in forbidden}
    assert third_party(others) <= {"msgspec", "psutil", "websockets"}


def test_metrics_are_kept_by_the_supervisor_and_read_by_nothing_that_makes_them() -> None:
    """A worker and its app know which figures there are, and no Prometheus."""
    for start in ("voicepool.worker", "voicepool.session", "voicepool.zygote"):
        ours, others = closure(start)
        assert "voicepool.figures" in ours
        assert "prometheus_client" not in others
        assert not ours & {"voicepool.metrics", "voicepool.metricspec"}
    ours, others = closure("voicepool.figures")
    assert ours <= {PACKAGE, "voicepool.figures"}
    assert third_party(others) == set()


# --- speech ----------------------------------------------------------------------------------


def test_the_pipeline_knows_no_wire_protocol_and_no_process() -> None:
    ours, others = closure("voicepool.pipeline")
    forbidden = ("wire", "session", "supervisor", "worker", "zygote", "ipc", "pool", "app")
    assert not {name for name in ours if name.split(".")[1:2] and name.split(".")[1] in forbidden}
    assert third_party(others) <= {"babel", "num2words", "numpy", "soxr"}


def test_the_pipeline_knows_engines_by_their_interfaces_only() -> None:
    ours, _ = closure("voicepool.pipeline", "voicepool.session")
    assert {name for name in ours if name.startswith("voicepool.engines.")} <= {
        "voicepool.engines.base"
    }


def test_engines_are_imported_by_the_registry_when_configured() -> None:
    ours, others = closure("voicepool.engines.registry")
    assert third_party(others) <= {"msgspec"}
    from voicepool.engines.registry import ENGINES

    implementations = {module for table in ENGINES.values() for module in table.values()}
    assert implementations
    assert not ours & implementations
    for module in modules():
        assert not imported(module, lazily=True) & implementations, module


# --- the environment -------------------------------------------------------------------------


def test_only_the_settings_read_the_environment() -> None:
    """Others may hand it on to config.py, or prepare that of a child."""
    users = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
        or (isinstance(node, ast.alias) and node.name in ("environ", "getenv"))
    }
    assert users <= {
        "voicepool.bench.commands",  # hands it to config.client
        "voicepool.commands",  # hands it to config.load
        "voicepool.forker",  # the zygote's, with one thread for every library
        "voicepool.settling",  # a worker's own TMPDIR and CUDA_VISIBLE_DEVICES
        "voicepool.tlsrelay",  # hands it to config.wants_color
        "voicepool.zygote",  # hands it to config.wants_color
    }


def test_the_package_stands_without_what_surrounds_it() -> None:
    outside = {"tests", "benchmarks", "examples", "scripts"}
    for module in modules():
        tops = {name.split(".")[0] for name in imported(module, lazily=True)}
        assert not tops & outside, module
