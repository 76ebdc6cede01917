"""`voicepool doctor`: looks at everything, judges it, and shows what came of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from voicepool.config import STAGES, Settings, wants_color
from voicepool.doctor import (
    cuda,
    facts,
    fit,
    host,
    judge,
    judgegpu,
    judgeservice,
    report,
    service,
)
from voicepool.doctor.child import Child
from voicepool.doctor.engines import Look, Wanted
from voicepool.doctor.facts import Checked, Cuda, Host
from voicepool.doctor.findings import SERVICE, Finding, Report, Section, ok
from voicepool.doctor.judgegpu import Needs
from voicepool.doctor.judgeservice import Plan
from voicepool.doctor.servicefacts import Service
from voicepool.engines.registry import PROFILES, Choice, resolve_profile
from voicepool.errors import ConfigError, ExitCode
from voicepool.gpu import NONE, Gpu
from voicepool.gpuprobe import survey
from voicepool.ipc import Sight
from voicepool.rules import gpu_need

_ON_GPU = "cuda"
_LIBRARIES = {"faster_whisper": "ctranslate2", "kokoro": "torch"}
"""Engine -> what it computes with."""


def doctor(
    settings: Settings, environ: Mapping[str, str], *, as_json: bool, probe: bool
) -> ExitCode:
    """Look, and print the report. Raises ConfigError for a profile or stage that does not exist."""
    with _patience():
        found = examine(settings, environ, probe=probe)
    if as_json:
        print(json.dumps(report.as_document(found), indent=2))
    else:
        width = min(shutil.get_terminal_size().columns, 100)
        print(report.as_text(found, color=wants_color(sys.stdout, environ), width=width))
    return report.exit_code(found)


@contextmanager
def _patience() -> Iterator[None]:
    """A word to the person at the terminal, for some seconds."""
    if not sys.stderr.isatty():
        yield
        return
    print("looking ...", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\x1b[K", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the looks brought."""

    settings: Settings
    """With the profile that would run, not "auto"."""
    choices: Sequence[Choice]
    """The one that would run first; none with an app of the user's own."""
    sight: Sight
    gpus: Sequence[Gpu]
    host: Host
    needs: Needs
    cuda: Cuda | None
    checks: Mapping[int, Checked]
    """By the place in `wanted` of their choices."""
    places: Sequence[Mapping[str, int]]
    """For each choice: stage -> that place."""
    service: Service | None
    """None where there is none to speak of."""


def examine(settings: Settings, environ: Mapping[str, str], *, probe: bool = False) -> Report:
    """Look at the host and judge what these settings would come to. Takes some seconds."""
    seen = _look(settings, environ, probe=probe)
    settings = seen.settings
    bounds = fit.bounds(settings, seen.host, seen.gpus, needs_gpu=seen.needs.gpu)
    sections = [
        Section("host", judge.judge_host(seen.host, settings)),
        Section("GPUs", judgegpu.judge(seen.sight, settings, seen.host, seen.needs, seen.cuda)),
        *_profiles(seen),
        Section("workers", fit.judge(settings, seen.host, seen.gpus, bounds)),
    ]
    sections += _service(seen)
    if not seen.choices:
        return Report("", f"app {settings.app}", sections, bounds)
    return Report(seen.choices[0].profile, seen.choices[0].why, sections, bounds)


# --- looking ---------------------------------------------------------------------------------


def _look(settings: Settings, environ: Mapping[str, str], *, probe: bool) -> _Seen:
    sight = survey()
    usable, _ = judgegpu.pick(sight, settings)
    choices = _choices(settings, usable)
    if choices:
        settings = replace(settings, profile=choices[0].profile)
    needs = _needs(settings, choices)
    wanted, places = _wanted(choices)
    with ExitStack() as undo:
        libraries: Child[facts.Answer] | None = None
        if needs.gpu or usable:
            request = cuda.Request(torch=_imports_torch(choices), compute=probe)
            libraries = Child(cuda.MODULE, request, facts.Answer, cuda.DEADLINE)
            undo.callback(libraries.close)
        look = Look(wanted, settings.max_connections, probe=probe)
        undo.callback(look.close)
        machine = host.look(settings.runtime_dir, environ)
        served = service.look(settings, environ)
        checks = dict(enumerate(look.results()))
        answers = facts.gather(*libraries.answers()) if libraries else None
    gpus = usable if gpu_need(settings) != "none" else []
    return _Seen(settings, choices, sight, gpus, machine, needs, answers, checks, places, served)


def _choices(settings: Settings, gpus: Sequence[Gpu]) -> list[Choice]:
    """The profile that would run, then the others."""
    if settings.app:
        return []
    gpu = gpus[0].name if gpus and settings.gpus != NONE else ""
    first = resolve_profile(settings.profile, settings.engines, gpu=gpu)
    others = (name for name in PROFILES if name != first.profile)
    return [first, *(resolve_profile(name, settings.engines) for name in others)]


def _needs(settings: Settings, choices: Sequence[Choice]) -> Needs:
    if not choices:
        return Needs(gpu=gpu_need(settings) == "must")
    tables = choices[0].tables.values()
    on_gpu = {_LIBRARIES.get(table["engine"]) for table in tables if table.get("device") == _ON_GPU}
    return Needs(
        gpu=gpu_need(settings) == "must",
        torch="torch" in on_gpu,
        ctranslate2="ctranslate2" in on_gpu,
    )


def _imports_torch(choices: Sequence[Choice]) -> bool:
    """Whether the first choice that computes on a GPU does, which decides what its other libraries
    find; True of an app, which may."""
    first = next((choice for choice in choices if _computes_on_gpu(choice)), None)
    return first is None or first.engines["tts"] == "kokoro"


def _computes_on_gpu(choice: Choice) -> bool:
    return any(table.get("device") == _ON_GPU for table in choice.tables.values())


def _wanted(choices: Sequence[Choice]) -> tuple[list[Wanted], list[dict[str, int]]]:
    """Every engine of every profile once: profiles have some in common."""
    wanted: list[Wanted] = []
    places: list[dict[str, int]] = []
    for choice in choices:
        place = {}
        for stage in STAGES:
            one = Wanted(stage, dict(choice.tables[stage]))
            if one not in wanted:
                wanted.append(one)
            place[stage] = wanted.index(one)
        places.append(place)
    return wanted, places


# --- judging ---------------------------------------------------------------------------------


def _service(seen: _Seen) -> Iterator[Section]:
    if seen.service is None:
        return
    if found := judgeservice.judge(seen.service, _plan(seen, seen.service)):
        yield Section(SERVICE, found)
    if seen.service.container is not None:
        gpus = bool(seen.gpus)
        found = [*judgeservice.judge_container(seen.service.container, seen.settings, gpus=gpus)]
        yield Section("container", found)


def _plan(seen: _Seen, found: Service) -> Plan:
    """What the service would run: the settings of its own, else those that we were given."""
    try:
        settings, error = service.settings_of(found.unit), ""
        settings = _resolved(settings, seen) if settings else None
    except ConfigError as wrong:
        settings, error = None, str(wrong)
    known, settings = settings is not None, settings or seen.settings
    need = gpu_need(settings)
    gpus = need != "none" and bool(judgegpu.pick(seen.sight, settings)[0])
    return Plan(settings, error, known, gpus or need == "must", need == "must")


def _resolved(own: Settings, seen: _Seen) -> Settings:
    if own.app:
        return own
    gpus = judgegpu.pick(seen.sight, own)[0]
    gpu = gpus[0].name if gpus and own.gpus != NONE else ""
    return replace(own, profile=resolve_profile(own.profile, own.engines, gpu=gpu).profile)


def _profiles(seen: _Seen) -> Iterator[Section]:
    if not seen.choices:
        text = f"{seen.settings.app} is not examined: what it needs, its preload() must say"
        yield Section("app", [ok(text)])
    for number, (choice, place) in enumerate(zip(seen.choices, seen.places, strict=True)):
        checks = {stage: seen.checks[at] for stage, at in place.items()}
        would_run = number == 0
        title = f"profile {choice.profile}"
        yield Section(
            f"{title} (would run: {choice.why})" if would_run else title,
            _judge(seen, choice, checks, would_run=would_run),
        )


def _judge(
    seen: _Seen, choice: Choice, checks: Mapping[str, Checked], *, would_run: bool
) -> list[Finding]:
    lacking = ""
    if _computes_on_gpu(choice) and not judgegpu.pick(seen.sight, seen.settings)[0]:
        lacking = seen.sight.error or "none is free for workers"
    callers = seen.settings.max_connections
    return judge.judge_profile(choice, checks, lacking, callers, serious=would_run)
