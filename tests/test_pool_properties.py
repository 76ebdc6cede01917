"""The pool's promises, whatever happens in whatever order: hypothesis drives the world.

The invariants are in `pool_model.World`; here is what can happen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, event
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.pool_model import LEAVING, Process, World
from tests.pool_world import MB
from voicepool.budget import BudgetSettings, Cost, Limits
from voicepool.errors import IllegalEvent
from voicepool.pool import (
    ConnectionArrived,
    ConnectionLost,
    Heartbeat,
    PoolSettings,
    ProcessExited,
    Reason,
    Refuse,
    SessionAccepted,
    SessionEnded,
    SpawnFailed,
    Tick,
    WorkerState,
)
from voicepool.poolspec import LIMITS_OF_A_CALL

seldom = st.sampled_from([False] * 14 + [True])
footprints = st.builds(
    Cost,
    host=st.sampled_from([60, 100, 100, 150, 150, 250, 400, 700]).map(MB.__mul__),
    device=st.sampled_from([0, 100, 100, 300]).map(MB.__mul__),
)
budgets = st.builds(
    BudgetSettings,
    estimate=st.sampled_from(
        [Cost(100 * MB, 100 * MB), Cost(300 * MB), Cost(300 * MB), Cost(900 * MB, 900 * MB)]
    ),
    reserve=st.sampled_from([Cost(), Cost(500 * MB, 200 * MB)]),
    caps=st.sampled_from([Limits(), Limits(), Limits(1_000 * MB), Limits(None, 500 * MB)]),
    soft_limit=st.sampled_from([Limits(), Limits(), Limits(300 * MB), Limits(None, 200 * MB)]),
    hard_limit=st.sampled_from([Limits(), Limits(), Limits(500 * MB), Limits(None, 250 * MB)]),
)


@st.composite
def pool_settings(draw: st.DrawFn) -> PoolSettings:
    workers = draw(st.integers(1, 4))
    return PoolSettings(
        workers=workers,
        max_connections=workers + draw(st.integers(0, 2)),
        spare=draw(st.integers(0, 2)),
        max_waiting=draw(st.integers(0, 3)),
        queue_timeout=draw(st.sampled_from([0.0, 2.0, 8.0])),
        warmups=draw(st.integers(1, 2)),
        hello_timeout=3.0,
        warm_up_timeout=10.0,
        ack_timeout=1.0,
        heartbeat_timeout=6.0,
        stop_timeout=2.0,
        kill_timeout=1.0,
        drain_timeout=5.0,
        call_limit=draw(st.sampled_from([None, 4.0])),
        worker_age=draw(st.sampled_from([None, 3.0, 15.0])),
        settle=2.0,
        budget=draw(budgets),
    )


def in_state(*states: WorkerState) -> Callable[[PoolMachine], bool]:
    """A precondition: there is a worker in one of these states."""
    return lambda machine: bool(machine.world.among(*states))


class PoolMachine(RuleBasedStateMachine):
    """What can happen to a pool. `pick` chooses among those to whom it can happen."""

    world: World

    @initialize(
        settings=pool_settings(),
        gpus=st.sampled_from([0, 0, 1, 2]),
        seed=st.integers(0, 99),
        warm=st.integers(0, 9),
    )
    def start(self, settings: PoolSettings, gpus: int, seed: int, warm: int) -> None:
        """Most stories begin with a pool that has come up, or else few would get far."""
        self.world = World(settings, gpus, seed)
        self.arrived = 0
        if warm > 1:
            self.world.probe()
        if warm > 3:
            self.all_goes_well_for_a_while(steps=8)

    def some(self, pick: int, *states: WorkerState) -> Process:
        found = self.world.among(*states)
        return found[pick % len(found)]

    # -- time and memory

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        """The shell may be late with its Tick."""
        self.world.now += seconds

    @rule()
    def deadline_comes(self) -> None:
        self.world.tick()

    @rule()
    def needless_tick(self) -> None:
        self.world.send(Tick())

    @rule()
    def probe(self) -> None:
        self.world.probe()

    @rule(pick=st.integers(0, 2), used=st.sampled_from([0, 0, 500, 2_500, 3_500, 4_100]))
    def others_use_memory(self, pick: int, used: int) -> None:
        self.world.others[self.world.devices[pick % len(self.world.devices)]] = used * MB
        self.world.probe()

    @precondition(lambda self: len(self.world.devices) > 1)
    @rule(pick=st.integers(0, 1))
    def gpu_vanishes_or_returns(self, pick: int) -> None:
        gpus = self.world.devices[1:]
        self.world.missing ^= {gpus[pick % len(gpus)]}
        self.world.probe()

    @precondition(lambda self: len(self.world.devices) > 1)
    @rule()
    def nobody_can_tell_vram_any_more_or_again(self) -> None:
        self.world.hidden = not self.world.hidden
        self.world.probe()

    # -- callers

    @rule(skipped=st.integers(0, 2))
    def caller_arrives(self, skipped: int) -> None:
        self.arrived += 1 + skipped
        self.world.arrive(self.arrived)

    @rule(callers=st.integers(1, 3))
    def callers_are_served(self, callers: int) -> None:
        """As many as there are idle workers for; the calls go on."""
        for _ in range(callers):
            self.caller_arrives(skipped=0)
        for process in self.world.among(WorkerState.ASSIGNED):
            if self.world.offered(process):
                self.world.accept(process)

    @rule(pick=st.integers(0, 9))
    def caller_with_an_older_number_arrives(self, pick: int) -> None:
        free = [number for number in range(self.arrived) if number not in self.world.callers]
        if free:
            self.world.arrive(free[pick % len(free)])

    @precondition(lambda self: self.world.waiting)
    @rule(pick=st.integers(0, 9))
    def waiting_caller_hangs_up(self, pick: int) -> None:
        waiting = self.world.waiting
        self.world.lose(waiting[pick % len(waiting)])

    @precondition(in_state(WorkerState.ASSIGNED, WorkerState.KILLING))
    @rule(pick=st.integers(0, 9))
    def offered_caller_is_found_gone(self, pick: int) -> None:
        offered = [
            process
            for process in self.world.among(WorkerState.ASSIGNED, WorkerState.KILLING)
            if self.world.offered(process)
        ]
        if offered:
            self.world.lose(self.world.caller_of(offered[pick % len(offered)]))

    @rule(pick=st.integers(0, 99))
    def hang_up_is_reported_too_late(self, pick: int) -> None:
        late = [c.number for c in self.world.callers.values() if c.accepted or c.outcomes]
        if late:
            self.world.send(ConnectionLost(late[pick % len(late)]))

    @rule()
    def one_more_caller_would_fare_as_ready_says(self) -> None:
        ready = self.world.pool.ready
        other = copy.deepcopy(self.world.pool)
        commands = other.handle(ConnectionArrived(10_000), self.world.now)
        refused = any(isinstance(c, Refuse) and c.connection == 10_000 for c in commands)
        # A refusal can come with back-off just over: time has passed since the last event.
        assert ready != refused

    # -- workers that behave

    @precondition(in_state(WorkerState.STARTING))
    @rule(pick=st.integers(0, 9))
    def worker_says_hello(self, pick: int) -> None:
        self.world.hello(self.some(pick, WorkerState.STARTING))

    @precondition(in_state(WorkerState.WARMING))
    @rule(pick=st.integers(0, 9), footprint=footprints)
    def worker_is_ready(self, pick: int, footprint: Cost) -> None:
        self.world.ready(self.some(pick, WorkerState.WARMING), footprint)

    @precondition(in_state(WorkerState.ASSIGNED))
    @rule(pick=st.integers(0, 9))
    def worker_accepts(self, pick: int) -> None:
        process = self.some(pick, WorkerState.ASSIGNED)
        if self.world.offered(process):
            self.world.accept(process)

    @precondition(in_state(WorkerState.SERVING, *LEAVING))
    @rule(
        pick=st.integers(0, 9),
        footprint=footprints,
        limit=st.sampled_from([None, None, *LIMITS_OF_A_CALL]),
    )
    def session_ends(self, pick: int, footprint: Cost, limit: Reason | None) -> None:
        """Perhaps of one that was told to stop, or is being killed."""
        process = self.some(pick, WorkerState.SERVING, *LEAVING)
        if process.accepted and not process.ended:
            self.world.end(process, footprint, limit)

    @precondition(in_state(*(set(WorkerState) - {WorkerState.STARTING})))
    @rule(pick=st.integers(0, 9), footprint=footprints)
    def heartbeat(self, pick: int, footprint: Cost) -> None:
        states = set(WorkerState) - {WorkerState.STARTING}
        self.world.heartbeat(self.some(pick, *states), footprint)

    @precondition(in_state(WorkerState.IDLE, WorkerState.SERVING))
    @rule()
    def everybody_is_alive(self) -> None:
        for process in self.world.among(WorkerState.IDLE, WorkerState.SERVING):
            if process.number in self.world.processes:
                self.world.beat(process)

    @precondition(in_state(*LEAVING))
    @rule(pick=st.integers(0, 9))
    def worker_that_was_told_to_go_exits(self, pick: int) -> None:
        process = self.some(pick, *LEAVING)
        self.world.exit(process, ProcessExited(process.number))

    @rule(steps=st.integers(1, 12))
    def all_goes_well_for_a_while(self, steps: int) -> None:
        """But calls go on. Else hypothesis rarely gets deep into the lives of several workers."""
        for _ in range(steps):
            for process in [*self.world.processes.values()]:
                if process.state is not WorkerState.SERVING:
                    self.world.behave(process)

    @precondition(in_state(WorkerState.SERVING))
    @rule(pick=st.integers(0, 9))
    def worker_dies_in_a_call(self, pick: int) -> None:
        process = self.some(pick, WorkerState.SERVING)
        self.world.exit(process, ProcessExited(process.number))

    @precondition(in_state(WorkerState.ASSIGNED))
    @rule(pick=st.integers(0, 9))
    def worker_dies_before_it_accepts(self, pick: int) -> None:
        process = self.some(pick, WorkerState.ASSIGNED)
        self.world.exit(process, ProcessExited(process.number))

    # -- workers that do not

    @precondition(in_state(*WorkerState))
    @rule(pick=st.integers(0, 9), error=st.sampled_from(["", "no model"]), permanent=seldom)
    def worker_dies(self, pick: int, error: str, permanent: bool) -> None:
        process = self.some(pick, *WorkerState)
        event(f"dies while {process.state.value}")
        self.world.exit(process, ProcessExited(process.number, error, permanent))

    @precondition(in_state(WorkerState.STARTING))
    @rule(pick=st.integers(0, 9), permanent=seldom)
    def fork_fails(self, pick: int, permanent: bool) -> None:
        process = self.some(pick, WorkerState.STARTING)
        self.world.exit(process, SpawnFailed(process.number, "EAGAIN", permanent))

    @precondition(in_state(WorkerState.KILLING))
    @rule(pick=st.integers(0, 9), footprint=footprints)
    def accepts_after_the_kill(self, pick: int, footprint: Cost) -> None:
        process = self.some(pick, WorkerState.KILLING)
        if self.world.offered(process):
            self.world.accept(process)

    @precondition(in_state(*LEAVING))
    @rule(pick=st.integers(0, 9), footprint=footprints)
    def speaks_after_the_order_to_go(self, pick: int, footprint: Cost) -> None:
        process = self.some(pick, *LEAVING)
        if process.connection is None:
            self.world.hello(process)
            self.world.ready(process, footprint)

    @rule(pick=st.integers(0, 99), footprint=footprints)
    def the_dead_speak(self, pick: int, footprint: Cost) -> None:
        dead = [n for n in range(1, self.world.spawned + 1) if n not in self.world.processes]
        if not dead:
            return
        worker = dead[pick % len(dead)]
        self.world.send(Heartbeat(worker, footprint.host))
        self.world.send(SessionEnded(worker, footprint.host))
        self.world.send(ProcessExited(worker, "again", permanent=True))
        with pytest.raises(IllegalEvent):
            self.world.pool.handle(SessionAccepted(worker), self.world.now)

    # -- operators

    @rule(settings=st.none() | pool_settings())
    def reload(self, settings: PoolSettings | None) -> None:
        self.world.reload(settings)

    @rule(really=seldom)
    def drain(self, really: bool) -> None:
        if really:
            self.world.drain()

    @precondition(lambda self: self.world.draining)
    @rule()
    def drain_again(self) -> None:
        self.world.drain()
        assert not self.world.among(WorkerState.SERVING)

    # -- always

    @invariant()
    def books_agree(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle_down()


def test_the_pool_keeps_its_promises() -> None:
    run_state_machine_as_test(
        PoolMachine,
        settings=hypothesis_settings(
            max_examples=150,
            stateful_step_count=50,
            deadline=None,
            # The machine is big, so data generation is slow by hypothesis' standards.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
