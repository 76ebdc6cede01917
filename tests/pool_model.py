"""A model of the world around the pool, for the property test.

`World` plays the shell, the processes and the callers. It believes only the pool's commands, keeps
its own books and checks every command against them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import note

from tests.pool_world import MB
from voicepool.budget import HOST, Cost, Reading
from voicepool.pool import (
    Assign,
    BudgetChanged,
    Command,
    ConnectionArrived,
    ConnectionLost,
    DrainRequested,
    Event,
    Heartbeat,
    Kill,
    Pool,
    PoolSettings,
    ProcessExited,
    Reason,
    Refuse,
    ReloadRequested,
    SessionAccepted,
    SessionEnded,
    Spawn,
    SpawnFailed,
    Stop,
    Tick,
    Warn,
    WorkerHello,
    WorkerReady,
    WorkerState,
)
from voicepool.pooldriver import ENDS
from voicepool.poolspec import LIMITS
from voicepool.ratelimits import Limits, RateRules
from voicepool.staffing import AGE_JITTER

TOTAL = 4_000 * MB
COMING = (WorkerState.STARTING, WorkerState.WARMING)
CALLING = (WorkerState.ASSIGNED, WorkerState.SERVING)
LEAVING = (WorkerState.RETIRING, WorkerState.KILLING)
BLAMELESS = (
    Reason.DRAINING,
    Reason.RELOAD,
    Reason.BUDGET,
    Reason.SURPLUS,
    Reason.WORKER_AGE,
)


@dataclass
class Process:
    """One worker as the world sees it."""

    number: int
    device: str
    floor: Cost
    """What the ledger must charge at least."""
    state: WorkerState = WorkerState.STARTING
    connection: int | None = None
    accepted: bool = False
    ended: bool = False
    loaded: bool = False
    stale: bool = False
    dismissed: bool = False
    stopped: bool = False
    warm_since: float = 0.0
    private: int | None = None
    vram: int | None = None
    """What the pool was told last of it; None before it was told anything."""
    takes: int = 0
    """Its true VRAM, which the next probe sees."""
    measured: bool = False
    weighed: bool = False
    awaits_weighing: bool = False
    inscrutable: bool = False

    def reserved(self, device: str) -> int:
        if device not in (HOST, self.device):
            return 0
        return max(self.floor.on(device), self.told(device) or 0)

    def told(self, device: str) -> int | None:
        if device == HOST:
            return self.private
        return self.vram if device == self.device else 0

    def explains(self, device: str) -> int | None:
        """What of a device's use is put down to it; None while it loads."""
        told = self.told(device)
        if told is None and self.inscrutable and device != HOST:
            return self.reserved(device)
        return told


@dataclass
class Caller:
    number: int
    deadline: float
    worker: int | None = None
    accepted: bool = False
    outcomes: list[str] = field(default_factory=list)
    """Exactly one in the end."""


class World:
    """The books: live processes, callers, memory; and the pool under test."""

    def __init__(self, settings: PoolSettings, gpus: int, seed: int) -> None:
        self.settings = settings
        self.pool = Pool(settings, random.Random(seed))
        self.now = 0.0
        self.devices = [HOST, *(f"cuda:{index}" for index in range(gpus))]
        self.processes: dict[int, Process] = {}
        self.callers: dict[int, Caller] = {}
        self.limits = Limits(RateRules())
        """As the shell has it count the calls of an address."""
        self.spawned = 0
        self.draining = False
        self.halted = False
        self.learned: dict[str, int] = {}
        """The highest measures of a warm worker, by "host" and "gpu"."""
        self.probed = False
        self.read: set[str] = set()
        self.missing: set[str] = set()
        """GPUs that cannot be read."""
        self.hidden = False
        """Nobody can tell who uses which VRAM."""
        self.others = dict.fromkeys(self.devices, 0)
        self.read_others = dict.fromkeys(self.devices, 0)
        self.read_surely = dict.fromkeys(self.devices, 0)
        self.zygote = 50 * MB
        self.reached: dict[str, int] = dict.fromkeys(LIMITS, 0)

    # -- what happens

    def send(self, event: Event) -> None:
        """Send an event and carry out the commands."""
        note(f"{self.now:.2f} {event}")
        self.blocked_until = self.pool.snapshot().backoff_until
        if isinstance(event, ReloadRequested):
            self.blocked_until = None
        commands = self.pool.handle(event, self.now)
        for change in self.pool.transitions:
            if change.after in ENDS:
                self.limits.call_ends(change.number)  # raises where it had ended before
        for command in commands:
            note(f"    {command}")
            self.obey(command)

    def tick(self) -> None:
        """Go to the pool's next deadline, if it has one."""
        deadline = self.pool.next_deadline
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.send(Tick())
            after = self.pool.next_deadline
            assert after is None or after > self.now, "the shell would spin"

    def arrive(self, number: int) -> None:
        self.limits.call_begins(number, "192.0.2.1")
        self.callers[number] = Caller(number, self.now + self.settings.queue_timeout)
        self.send(ConnectionArrived(number))

    def hello(self, process: Process) -> None:
        if process.state is WorkerState.STARTING:
            process.state = WorkerState.WARMING
        self.send(WorkerHello(process.number))

    def ready(self, process: Process, footprint: Cost) -> None:
        if process.state is WorkerState.WARMING:
            process.state = WorkerState.IDLE
        process.loaded = True
        process.warm_since = self.now
        self.measure(process, footprint)
        self.send(WorkerReady(process.number, footprint.host))

    def accept(self, process: Process) -> None:
        """The acknowledgement arrives, perhaps from one that is being killed."""
        caller = self.caller_of(process)
        assert not caller.accepted
        caller.accepted = process.accepted = True
        if process.state is WorkerState.ASSIGNED:
            process.state = WorkerState.SERVING
        self.send(SessionAccepted(process.number))

    def end(self, process: Process, footprint: Cost, limit: Reason | None = None) -> None:
        if limit is not None and not process.stopped:
            self.reached[limit] += 1
        self.caller_of(process).outcomes.append("served")
        process.ended = True
        if process.state is WorkerState.SERVING:
            process.state = WorkerState.RETIRING
        self.measure(process, footprint)
        self.send(SessionEnded(process.number, footprint.host, limit))

    def heartbeat(self, process: Process, footprint: Cost) -> None:
        self.measure(process, footprint)
        self.send(Heartbeat(process.number, footprint.host))

    def beat(self, process: Process) -> None:
        """A heartbeat that brings nothing new."""
        self.heartbeat(process, Cost(process.private or 0, process.takes))

    def exit(self, process: Process, event: ProcessExited | SpawnFailed) -> None:
        del self.processes[process.number]
        blameless = process.accepted or process.stale or process.dismissed
        if event.permanent and not blameless:
            self.halted = True
        if process.connection is not None and process.accepted and not process.ended:
            self.caller_of(process).outcomes.append("lost")
        elif process.connection is not None and not process.accepted:
            self.caller_of(process).worker = None
        self.send(event)

    def lose(self, caller: Caller) -> None:
        caller.outcomes.append("gone")
        self.send(ConnectionLost(caller.number))

    def probe(self) -> None:
        """Read all devices truly, but those that are missing."""
        self.probed = True
        vram = {
            process.number: None if self.hidden or process.device in self.missing else process.takes
            for process in self.processes.values()
            if process.device != HOST
        }
        for process in [*self.processes.values()]:
            if process.number in vram and process.loaded:
                self.weigh(process, vram[process.number])
        readings: dict[str, Reading | None] = {}
        for device in self.devices:
            if device in self.missing:
                readings[device] = None
                continue
            zygote = self.zygote if device == HOST else 0
            explained = [process.explains(device) for process in self.processes.values()]
            ours = zygote + sum(used or 0 for used in explained)
            readings[device] = Reading(TOTAL, self.others[device] + ours)
            loading = sum(
                process.reserved(device)
                for process in self.processes.values()
                if process.explains(device) is None
            )
            self.read_others[device] = self.others[device]
            self.read_surely[device] = max(0, self.others[device] - loading)
        self.read = {device for device in self.devices if device not in self.missing}
        self.send(BudgetChanged(readings, self.zygote, vram))

    def reload(self, settings: PoolSettings | None) -> None:
        self.settings = settings or self.settings
        self.halted = False
        self.learned = {}
        for process in self.processes.values():
            process.stale = True
            process.awaits_weighing = False
        self.send(ReloadRequested(settings))

    def drain(self) -> None:
        self.draining = True
        self.send(DrainRequested())

    # -- the books

    @property
    def estimate(self) -> Cost:
        configured = self.settings.budget.estimate
        return Cost(
            self.learned.get("host", configured.host), self.learned.get("gpu", configured.device)
        )

    @property
    def proven(self) -> bool:
        return "host" in self.learned and ("gpu" in self.learned or len(self.devices) == 1)

    @property
    def unweighed(self) -> bool:
        """Whether a warm worker waits to be weighed."""
        return any(process.awaits_weighing for process in self.processes.values())

    @property
    def waiting(self) -> list[Caller]:
        return [
            caller
            for caller in self.callers.values()
            if not caller.outcomes and caller.worker is None
        ]

    def caller_of(self, process: Process) -> Caller:
        assert process.connection is not None
        return self.callers[process.connection]

    def offered(self, process: Process) -> bool:
        """Whether the process may still acknowledge its caller."""
        return (
            process.connection is not None
            and not process.accepted
            and not self.caller_of(process).outcomes
        )

    def among(self, *states: WorkerState) -> list[Process]:
        return [process for process in self.processes.values() if process.state in states]

    def measure(self, process: Process, footprint: Cost) -> None:
        """Its own word on the host; the VRAM is for the next probe to see."""
        process.private, process.takes = footprint.host, footprint.device
        hard = self.settings.budget.hard_limit.host
        if not process.loaded or process.stale or (hard is not None and footprint.host > hard):
            return
        self.learned["host"] = max(self.learned.get("host", 0), footprint.host)
        if not process.measured:
            process.measured = True
            process.awaits_weighing = process.device != HOST
            process.floor = Cost(self.learned["host"], process.floor.device)

    def weigh(self, process: Process, vram: int | None) -> None:
        process.awaits_weighing = False
        process.inscrutable = vram is None
        if vram is None:
            return
        process.vram = vram
        hard = self.settings.budget.hard_limit.device
        if process.stale or (hard is not None and vram > hard):
            return
        self.learned["gpu"] = max(self.learned.get("gpu", 0), vram)
        if not process.weighed:
            process.weighed = True
            process.floor = Cost(process.floor.host, self.learned["gpu"])

    def committed(self, device: str, *, staying: bool = False) -> int:
        """Bytes that workers and zygote hold on a device."""
        held = sum(
            process.reserved(device)
            for process in self.processes.values()
            if not (staying and process.state in LEAVING)
        )
        return held + (self.zygote if device == HOST else 0)

    def limit(self, device: str, others: int) -> int:
        left = TOTAL - self.settings.budget.reserve.on(device) - others
        cap = self.settings.budget.caps.on(device)
        return left if cap is None else min(left, cap)

    # -- commands

    def obey(self, command: Command) -> None:
        if isinstance(command, Stop | Kill | Warn) and command.reason in LIMITS:
            self.reached[command.reason] += 1
        match command:
            case Spawn():
                self.obey_spawn(command)
            case Assign():
                self.obey_assign(command)
            case Refuse():
                caller = self.callers[command.connection]
                assert caller in self.waiting
                assert 1 <= command.retry_after <= 60
                if command.reason is Reason.TIMEOUT:
                    assert self.now >= caller.deadline
                assert (command.reason is Reason.DRAINING) == self.draining
                caller.outcomes.append(f"refused: {command.reason}")
            case Stop():
                process = self.processes[command.worker]
                assert process.state in (*COMING, WorkerState.IDLE, WorkerState.SERVING)
                if process.state is WorkerState.SERVING:
                    assert command.reason in (Reason.CALL_LIMIT, Reason.DRAINING)
                if command.reason is Reason.WORKER_AGE:
                    self.check_old(process)
                process.stopped = True
                process.state = WorkerState.RETIRING
                process.dismissed |= command.reason in BLAMELESS
            case Kill():
                self.processes[command.worker].stopped = True
                self.processes[command.worker].state = WorkerState.KILLING
            case Warn():
                assert self.processes[command.worker].state in CALLING
                assert command.reason in (Reason.SOFT_LIMIT, Reason.VRAM_SOFT_LIMIT)

    def check_old(self, process: Process) -> None:
        """It is old, and its going leaves somebody for the next caller."""
        assert process.state is WorkerState.IDLE
        assert self.settings.worker_age is not None
        assert self.now - process.warm_since >= self.settings.worker_age * (1 - AGE_JITTER)
        assert len(self.among(WorkerState.IDLE)) > 1
        assert not self.draining

    def obey_spawn(self, command: Spawn) -> None:
        assert not self.draining
        assert not self.halted
        assert self.probed
        assert self.blocked_until is None or self.now >= self.blocked_until
        assert command.worker == self.spawned + 1
        self.spawned = command.worker
        assert command.device in (self.devices[1:] or [HOST])
        assert command.device in self.read, "nobody can see how full it is"
        others = [process for process in self.among(*COMING) if process.device == command.device]
        assert len(others) < self.settings.warmups
        if not self.proven:
            assert not self.among(*COMING), "a second pilot"
            assert not self.unweighed, "the pilot's VRAM is not known yet"
        self.processes[command.worker] = Process(command.worker, command.device, self.estimate)
        assert len(self.processes) <= self.settings.max_connections + self.settings.spare
        for device in {HOST, command.device}:
            assert self.committed(device) <= self.limit(device, self.read_others[device])

    def obey_assign(self, command: Assign) -> None:
        assert not self.draining
        process, caller = self.processes[command.worker], self.callers[command.connection]
        assert process.state is WorkerState.IDLE
        assert process.connection is None, "a worker serves one caller, ever"
        assert caller in self.waiting
        process.state = WorkerState.ASSIGNED
        process.connection = caller.number
        caller.worker = process.number
        assert len(self.among(*CALLING)) <= self.settings.max_connections

    # -- invariants

    def check(self) -> None:
        seen = self.pool.snapshot()
        assert {view.number: view.state for view in seen.workers} == {
            process.number: process.state for process in self.processes.values()
        }
        assert {name: count for name, count in seen.states.items() if count} == {
            state: len(self.among(state)) for state in seen.states if self.among(state)
        }
        assert seen.callers == len(self.among(*CALLING))
        assert seen.waiting == len(self.waiting)
        assert seen.draining == self.draining
        assert seen.halted == self.halted
        assert seen.estimate == self.estimate
        assert seen.totals.limits == self.reached
        self.check_serving()
        self.check_deadlines()
        self.check_memory()

    def check_serving(self) -> None:
        idle = self.among(WorkerState.IDLE)
        if self.waiting and idle:
            assert len(self.among(*CALLING)) >= self.settings.max_connections
        staying = self.settings.max_connections + self.settings.spare - len(self.among(*CALLING))
        assert len(idle) <= max(0, min(self.settings.workers, staying))
        if self.draining:
            assert not self.waiting
            assert not idle
            assert not self.among(*COMING)
        if self.halted and not idle and not self.among(*COMING):
            assert not self.waiting, "they wait for nobody"
        assert all(len(caller.outcomes) <= 1 for caller in self.callers.values())
        present = [caller for caller in self.callers.values() if not caller.outcomes]
        assert self.limits.calls == len(present)

    def check_deadlines(self) -> None:
        next_deadline = self.pool.next_deadline
        for view in self.pool.snapshot().workers:
            assert next_deadline is not None
            assert next_deadline <= view.deadline
        for caller in self.waiting:
            assert next_deadline is not None
            assert next_deadline <= caller.deadline
        deadlines = self.pool._state.deadlines
        assert len(deadlines._heap) <= 2 * len(deadlines) + 64
        assert len(self.pool._state.connections) <= len(self.waiting) + len(self.processes)

    def check_memory(self) -> None:
        """Where those who stay hold too much, there is no idle or coming worker left to give."""
        for device in self.read:
            limit = self.limit(device, self.read_surely[device])
            if self.committed(device, staying=True) > limit:
                for process in self.among(*COMING, WorkerState.IDLE):
                    assert process.reserved(device) == 0

    # -- peace

    def settle_down(self) -> None:
        """Let failures stop and calls end until nothing moves any more, and take stock."""
        self.missing.clear()
        self.probe()
        if self.halted:
            self.reload(None)
        for _ in range(1_000):
            if not self.calm_step():
                break
            self.check()
        else:
            raise AssertionError("the pool does not come to rest")
        for caller in self.callers.values():
            assert len(caller.outcomes) == 1, caller
        if self.draining:
            assert not self.processes
            return
        idle = self.among(WorkerState.IDLE)
        assert len(idle) == len(self.processes) == self.pool.snapshot().target
        assert len(idle) == self.settings.workers or not self.fits()
        if any(process.stale for process in idle):
            assert not self.fits(without_stale=True), "not rolled, though it could be"
        elif self.settings.worker_age is not None and self.fits() and len(idle) > 1:
            self.outlive([process.number for process in idle])

    def outlive(self, old: list[int]) -> None:
        """Nothing happens but that time passes: one after the other they are replaced."""
        for _ in range(1_000):
            if not any(number in self.processes for number in old):
                return
            for process in [*self.processes.values()]:
                if not self.behave(process) and process.number in self.processes:
                    self.beat(process)
            self.now += 0.25
            self.send(Tick())
            self.check()
        raise AssertionError("they grow old and stay")

    def calm_step(self) -> bool:
        """Everybody does what is expected of them; False once there is nothing left to do."""
        busy = [*self.processes.values()]
        moved = [process for process in busy if self.behave(process)]
        if moved:
            return True
        for process in self.among(WorkerState.IDLE):
            self.beat(process)
        if self.waiting or self.pool.snapshot().backoff_until is not None:
            self.tick()
            return True
        self.probe()
        return any(process.state is not WorkerState.IDLE for process in self.processes.values())

    def behave(self, process: Process) -> bool:
        """Take a worker one step along its natural way; False if it is idle, or gone."""
        if process.number not in self.processes:
            return False
        match process.state:
            case WorkerState.STARTING:
                self.hello(process)
            case WorkerState.WARMING:
                self.ready(process, Cost(100 * MB, 100 * MB))
            case WorkerState.ASSIGNED if self.offered(process):
                self.accept(process)
            case WorkerState.SERVING:
                self.end(process, Cost(process.private or 0, process.takes))
            case WorkerState.IDLE:
                return False
            case _:
                self.exit(process, ProcessExited(process.number))
        return True

    def fits(self, *, without_stale: bool = False) -> bool:
        """Whether one more worker would fit."""
        gone = [process for process in self.processes.values() if without_stale and process.stale]

        def free(device: str) -> int:
            spared = sum(process.reserved(device) for process in gone)
            return self.limit(device, self.read_others[device]) - self.committed(device) + spared

        gpus = self.devices[1:]
        if gpus and max(map(free, gpus)) < self.estimate.device:
            return False
        return free(HOST) >= self.estimate.host
