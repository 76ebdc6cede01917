"""What deploy/ and the Dockerfile say: valid by their own formats, and in agreement with voicepool.

These tests build and run no container, for they cannot count on an engine. Linters, the schemas of
the formats, and commands that can be run as they are take its place.

schemas/compose-spec.json is that of github.com/compose-spec/compose-spec (Apache License 2.0).
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.pools import PoolServer
from voicepool.config import Settings, load
from voicepool.quantities import parse_duration
from voicepool.reception import HEALTHZ, READYZ

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MARGIN = 5.0
"""What stopping takes besides what is waited for, in seconds."""


def settings_of(text: str, folder: Path) -> Settings:
    """The settings of a configuration file with this text, which voicepool has accepted."""
    file = folder / "voicepool.toml"
    file.write_text(text)
    environ = {"VOICEPOOL_API_KEYS": "k" * 32, "VOICEPOOL_HOST": "0.0.0.0"}
    return load({}, environ, folder, str(file)).settings


def longest_stop(settings: Settings) -> float:
    """Seconds from TERM to the end, where every call takes its time."""
    return settings.drain_notice + settings.drain_timeout + settings.stop_timeout + MARGIN


# --- Dockerfile ------------------------------------------------------------------------------


def test_the_dockerfile_has_no_faults() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [program, "--failure-threshold", "style", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def copied() -> list[str]:
    """What the Dockerfile takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return [name for line in lines for name in line.split()]


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied()) == sorted(allowed)


def test_an_installation_from_what_is_copied_is_complete(tmp_path: Path) -> None:
    """Pages, phrasebooks, units: every file of the package."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", target, source],
        check=True,
        timeout=100,
    )
    package = source / "voicepool"
    known = {file.relative_to(package) for file in package.rglob("*") if file.is_file()}
    assert len(known) > 100
    lacking = {name for name in known if not (target / "voicepool" / name).exists()}
    # Tells Node, which tests the page's scripts, what they are.
    assert {str(name) for name in lacking if name.suffix != ".pyc"} == {"web/package.json"}


def healthcheck() -> list[str]:
    found = re.search(r"^HEALTHCHECK [^\[]*(\[.*\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found is not None
    command: list[str] = ast.literal_eval(found[1].splitlines()[0])
    return command


def test_the_health_check_tells_a_live_server_from_a_dead_one(
    start_pool: Callable[..., PoolServer],
) -> None:
    server = start_pool(workers=1)
    command = [part.replace(":8000", f":{server.address[1]}") for part in healthcheck()]
    assert command[0] == "python"
    command[0] = sys.executable
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    server.close()
    dead = subprocess.run(command, timeout=60, check=False, stderr=subprocess.DEVNULL)
    assert dead.returncode != 0


# --- Compose ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def test_the_compose_file_follows_the_specification(compose: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "schemas" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose)


def test_the_compose_file_knows_what_it_names(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file()
            else:
                assert source in compose["volumes"]
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert context == ROOT
            for argument in service["build"]["args"]:
                assert f"\nARG {argument}=" in DOCKERFILE


def test_compose_gives_calls_the_time_to_end(compose: dict[str, Any], tmp_path: Path) -> None:
    settings = settings_of((DEPLOY / "voicepool.toml").read_text(), tmp_path)
    service = compose["services"]["voicepool"]
    assert parse_duration(service["stop_grace_period"]) >= longest_stop(settings)
    assert settings.engines["llm"]["host"].startswith("http://ollama:")
    parallel = int(compose["services"]["ollama"]["environment"]["OLLAMA_NUM_PARALLEL"])
    assert parallel >= settings.max_connections


# --- Kubernetes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """By kind and name."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "voicepool.yaml").read_text())
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in documents}


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_the_manifests_are_valid(manifests: dict[str, dict[str, Any]], version: str) -> None:
    assert len(manifests) == 5
    for item in manifests.values():
        kubernetes_validate.validate(item, version, strict=True)


@pytest.fixture
def pod(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["StatefulSet/voicepool"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def cluster_settings(manifests: dict[str, dict[str, Any]], tmp_path: Path) -> Settings:
    return settings_of(manifests["ConfigMap/voicepool"]["data"]["voicepool.toml"], tmp_path)


def test_pods_get_the_time_to_drain(pod: dict[str, Any], cluster_settings: Settings) -> None:
    assert pod["terminationGracePeriodSeconds"] >= longest_stop(cluster_settings)
    # Endpoints are told by the readiness probe; nobody may be refused before they have been.
    probe = pod["containers"][0]["readinessProbe"]
    assert cluster_settings.drain_notice > 2 * probe["periodSeconds"] * probe["failureThreshold"]


def test_ports_and_probes_are_those_of_voicepool(
    manifests: dict[str, dict[str, Any]], pod: dict[str, Any], cluster_settings: Settings
) -> None:
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": cluster_settings.port, "agent": cluster_settings.agent_port}
    for service in ("voicepool", "voicepool-nodes"):
        for port in manifests[f"Service/{service}"]["spec"]["ports"]:
            assert port["targetPort"] in ports
    paths = {name: container[name]["httpGet"]["path"] for name in container if "Probe" in name}
    assert paths == {
        "startupProbe": HEALTHZ,
        "livenessProbe": HEALTHZ,
        "readinessProbe": READYZ,
    }


def test_containers_have_keys_for_calls_and_for_looking_inside(
    compose: dict[str, Any], pod: dict[str, Any]
) -> None:
    (server,) = pod["containers"]
    for names in (
        {variable["name"] for variable in server["env"]},
        set(compose["services"]["voicepool"]["environment"]),
    ):
        assert {"VOICEPOOL_API_KEYS", "VOICEPOOL_ADMIN_KEYS"} <= names


def test_every_reference_in_the_manifests_has_its_object(
    manifests: dict[str, dict[str, Any]], pod: dict[str, Any]
) -> None:
    stateful = manifests["StatefulSet/voicepool"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"] == labels
    assert manifests["PodDisruptionBudget/voicepool"]["spec"]["selector"]["matchLabels"] == labels
    for service in ("voicepool", "voicepool-nodes"):
        assert manifests[f"Service/{service}"]["spec"]["selector"] == labels
    assert f"Service/{stateful['serviceName']}" in manifests
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for volume in pod["volumes"]:
        if "configMap" in volume:
            assert f"ConfigMap/{volume['configMap']['name']}" in manifests


def test_containers_have_no_privileges(pod: dict[str, Any]) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    context = pod["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert context["runAsNonRoot"]
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_containers_write_where_they_may(pod: dict[str, Any]) -> None:
    """Their root is read-only: models and temporary files have volumes."""
    home = re.search(r"HF_HOME=(\S+)", DOCKERFILE)
    assert home is not None
    for container in (*pod["containers"], *pod["initContainers"]):
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable == {home[1], "/tmp"}


# --- HAProxy ---------------------------------------------------------------------------------


def test_the_balancer_and_the_nodes_it_asks_for_agree(tmp_path: Path) -> None:
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    settings = settings_of("\n".join(_node_settings(text)), tmp_path)
    times = dict(re.findall(r"^ +timeout (\S+) (\d+m?s|\d+[mh])$", text, re.MULTILINE))
    server = re.search(r"^ +default-server (.+)$", text, re.MULTILINE)
    stop = re.search(r"^ +hard-stop-after (\S+)$", text, re.MULTILINE)
    assert server is not None
    assert stop is not None
    words = server[1].split()
    given: Mapping[str, str] = dict(pairwise(words))
    slots = int(given["maxconn"])
    assert slots == settings.max_connections
    assert settings.max_waiting >= slots
    assert int(given["agent-port"]) == settings.agent_port
    assert parse_duration(times["server"]) > settings.queue_timeout
    assert parse_duration(stop[1]) > settings.call_limit
    # Two asks of the agent before anybody is refused, and one before a node is taken for up.
    assert settings.drain_notice >= 2 * parse_duration(given["agent-inter"])
    assert int(given["rise"]) * parse_duration(given["inter"]) > 2 * parse_duration(
        given["agent-inter"]
    )


def _node_settings(text: str) -> Iterator[str]:
    """The lines of voicepool.toml in the comment at the top."""
    head = text.partition("\nglobal\n")[0]
    for line in head.splitlines():
        if line.startswith("#   ") and not line.startswith("#   #"):
            entry = line[4:].partition(" #")[0]
            tomllib.loads(entry)
            yield entry
