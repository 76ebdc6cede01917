"""The ledger: the documented example, its corners, and its running sums against brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.budget import HOST, BudgetSettings, Cost, Ledger, Limits, Reading, Shortfall

GB = 1 << 30


def ledger(
    host: Cost,
    total: int = 8 * GB,
    used: int = 0,
    reserve: Cost = Cost(),  # noqa: B008 (frozen)
    caps: Limits = Limits(),  # noqa: B008
) -> Ledger:
    made = Ledger(BudgetSettings(estimate=host, reserve=reserve, caps=caps))
    made.update({HOST: Reading(total, used)}, 0)
    return made


def test_the_example_of_the_docstring() -> None:
    made = Ledger(BudgetSettings(estimate=Cost(GB), reserve=Cost(GB)))
    made.reserve(1, HOST)
    made.reserve(2, HOST)
    made.measure(1, GB, warm=True)
    made.measure(2, GB, warm=True)
    made.update({HOST: Reading(8 * GB, 7 * GB // 2)}, GB // 2)
    assert made.free(HOST) == 7 * GB // 2
    assert made.room(10) == 3


def test_without_a_reading_of_the_host_there_is_no_place() -> None:
    made = Ledger(BudgetSettings(estimate=Cost(0)))
    assert (made.place(), made.room(5), made.bottleneck()) == (None, 0, HOST)
    made.update({"cuda:0": Reading(8 * GB, 0)}, 0)
    assert made.place() is None


def test_what_was_never_looked_at_is_not_missing() -> None:
    before = Ledger(BudgetSettings())
    assert [view.missing for view in before.views(8)] == [False]
    before.update({HOST: Reading(8, 0), "cuda:0": None}, 0)
    assert [view.missing for view in before.views(8)] == [False, True]


def test_with_gpus_nobody_is_placed_on_the_host() -> None:
    made = Ledger(BudgetSettings(estimate=Cost(GB, 2 * GB)))
    made.update({HOST: Reading(4 * GB, 0), "cuda:0": Reading(5 * GB, 0)}, 0)
    assert made.places == ["cuda:0"]
    assert made.place() == "cuda:0"
    assert made.place(shun=["cuda:0"]) is None
    assert made.room(10) == 2, "VRAM binds"
    made.reserve(1, "cuda:0")
    assert (made.free(HOST), made.free("cuda:0")) == (3 * GB, 3 * GB)


def test_the_host_can_bind_before_any_gpu() -> None:
    made = Ledger(BudgetSettings(estimate=Cost(3 * GB, GB)))
    readings = {
        HOST: Reading(4 * GB, 0),
        "cuda:0": Reading(9 * GB, 0),
        "cuda:1": Reading(9 * GB, 0),
    }
    made.update(readings, 0)
    assert made.room(10) == 1
    made.reserve(1, "cuda:0")
    assert made.place() is None
    assert made.bottleneck() == HOST


def test_the_gpu_with_most_room_is_the_place_and_the_bottleneck() -> None:
    made = Ledger(BudgetSettings(estimate=Cost(0, 2 * GB)))
    readings = {HOST: Reading(GB, 0), "cuda:0": Reading(3 * GB, 0), "cuda:1": Reading(4 * GB, 0)}
    made.update(readings, 0)
    for worker, place in enumerate(["cuda:1", "cuda:0"]):
        assert made.place() == place
        made.reserve(worker, place)
    assert made.place() == "cuda:1"
    made.reserve(2, "cuda:1")
    assert made.place() is None
    assert made.bottleneck() == "cuda:0"


def test_a_gpu_that_is_not_read_any_more_has_no_room() -> None:
    made = Ledger(BudgetSettings(estimate=Cost(0, GB)))
    made.update({HOST: Reading(GB, 0), "cuda:0": Reading(9 * GB, 0)}, 0)
    made.reserve(1, "cuda:0")
    made.update({HOST: Reading(GB, 0)}, 0)
    assert made.free("cuda:0") == 0
    assert made.overshot() == []
    made.release(1)


def test_the_reserve_and_the_cap_both_limit() -> None:
    assert ledger(Cost(GB), reserve=Cost(3 * GB)).free(HOST) == 5 * GB
    capped = ledger(Cost(GB), used=6 * GB, caps=Limits(4 * GB))
    assert capped.free(HOST) == 2 * GB
    assert ledger(Cost(GB), caps=Limits(4 * GB)).free(HOST) == 4 * GB


def test_the_first_warm_measure_replaces_the_estimate_and_later_ones_only_raise_it() -> None:
    made = ledger(Cost(4 * GB))
    made.reserve(1, HOST)
    assert not made.proven
    made.measure(1, GB // 2, warm=False)
    assert made.estimate == Cost(4 * GB), "it is still loading"
    made.measure(1, GB, warm=True)
    assert (made.estimate, made.proven) == (Cost(GB), True)
    assert made.free(HOST) == 7 * GB, "its own reservation falls too"
    made.measure(1, 2 * GB, warm=True)
    made.measure(1, GB, warm=True)
    assert made.estimate == Cost(2 * GB)
    assert made.free(HOST) == 7 * GB


def test_a_worker_keeps_its_estimate_reserved_while_it_uses_less() -> None:
    made = ledger(Cost(GB))
    made.reserve(1, HOST)
    made.measure(1, 3 * GB, warm=True)
    made.reserve(2, HOST)
    made.measure(2, GB, warm=True)
    assert made.free(HOST) == 2 * GB
    made.measure(2, 4 * GB, warm=True)
    assert made.free(HOST) == GB


def test_new_settings_void_what_was_learned() -> None:
    made = ledger(Cost(GB))
    made.reserve(1, HOST)
    made.measure(1, 3 * GB, warm=True)
    made.configure(BudgetSettings(estimate=Cost(2 * GB)))
    assert (made.estimate, made.proven) == (Cost(2 * GB), False)
    assert made.free(HOST) == 5 * GB, "the living keep their reservations"


def test_an_exit_between_two_readings_gives_its_room_back_at_once() -> None:
    made = ledger(Cost(GB), total=2 * GB)
    made.reserve(1, HOST)
    made.measure(1, 2 * GB, warm=True)
    made.update({HOST: Reading(2 * GB, 2 * GB)}, 0)
    assert made.place() is None
    made.release(1)
    assert made.place() == HOST


def test_a_loading_worker_is_not_an_overshoot() -> None:
    made = ledger(Cost(GB), total=3 * GB)
    for worker in (1, 2):
        made.reserve(worker, HOST)
    made.measure(1, GB, warm=True)
    # 2 uses 0.9 by now, which nobody has measured
    made.update({HOST: Reading(3 * GB, int(1.9 * GB))}, 0)
    assert made.overshot() == []
    assert made.place() is None, "but there is no certainty about any room"
    made.update({HOST: Reading(3 * GB, int(3.2 * GB))}, 0)
    assert made.overshot() == [HOST]


def test_those_who_leave_no_longer_overshoot_but_hold_their_reservation() -> None:
    made = ledger(Cost(GB), total=3 * GB)
    for worker in (1, 2):
        made.reserve(worker, HOST)
        made.measure(worker, GB, warm=True)
    made.update({HOST: Reading(3 * GB, 4 * GB)}, 0)
    assert made.overshot() == [HOST]
    made.leave(1)
    assert made.overshot() == []
    assert made.free(HOST) == -GB
    made.release(1)
    assert made.free(HOST) == 0


def test_room_as_if_some_had_gone() -> None:
    made = ledger(Cost(GB), total=2 * GB)
    for worker in (1, 2):
        made.reserve(worker, HOST)
    assert made.place() is None
    assert made.place(without=[2]) == HOST


@pytest.mark.parametrize(("free", "room"), [(5 * GB, 4), (0, 4), (-1, 0)])
def test_workers_that_cost_nothing_fit_unless_there_is_an_overshoot(free: int, room: int) -> None:
    made = ledger(Cost(0), total=5 * GB, used=5 * GB - free)
    assert made.room(4) == room


# --- GPUs ---------------------------------------------------------------------------------------


def on_gpu(
    estimate: Cost, total: int, used: int = 0, *, reserve: int = 0, cap: int | None = None
) -> Ledger:
    """A ledger of a host with room for anything, and one GPU."""
    budget = BudgetSettings(estimate, reserve=Cost(0, reserve), caps=Limits(None, cap))
    made = Ledger(budget)
    made.update({HOST: Reading(64 * GB, 0), "cuda:0": Reading(total, used)}, 0)
    return made


def test_the_pilot_is_measured_on_host_and_gpu_before_it_proves_anything() -> None:
    made = on_gpu(Cost(GB, 4 * GB), 24 * GB)
    made.reserve(1, "cuda:0")
    made.measure(1, GB // 2, warm=True)
    assert (made.proven, made.unweighed) == (False, True)
    made.weigh(1, 3 * GB, warm=True)
    assert (made.proven, made.unweighed) == (True, False)
    assert made.estimate == Cost(GB // 2, 3 * GB)
    assert made.free("cuda:0") == 21 * GB


def test_a_worker_that_goes_before_it_was_weighed_is_waited_for_no_more() -> None:
    made = on_gpu(Cost(GB, GB), 24 * GB)
    made.reserve(1, "cuda:0")
    made.measure(1, GB, warm=True)
    made.release(1)
    assert not made.unweighed


def test_others_on_a_gpu_are_what_our_workers_do_not_explain() -> None:
    made = on_gpu(Cost(0, 4 * GB), 24 * GB)
    made.reserve(1, "cuda:0")
    made.measure(1, 0, warm=True)
    made.weigh(1, 3 * GB, warm=True)
    made.update({HOST: Reading(64 * GB, 0), "cuda:0": Reading(24 * GB, 11 * GB)}, 0)
    _, gpu = made.views(16)
    assert (gpu.others, gpu.reserved, gpu.workers, gpu.fits) == (8 * GB, 3 * GB, 1, 4)


def test_one_that_nobody_can_weigh_is_taken_to_fill_its_reservation() -> None:
    made = on_gpu(Cost(0, 4 * GB), 24 * GB)
    made.reserve(1, "cuda:0")
    made.measure(1, 0, warm=True)
    seen = {HOST: Reading(64 * GB, 0), "cuda:0": Reading(24 * GB, 5 * GB)}
    made.update(seen, 0)
    assert made.free("cuda:0") == 15 * GB, "it is to be weighed yet: what is used is others'"
    made.weigh(1, None, warm=False)
    made.update(seen, 0)
    assert made.free("cuda:0") == 19 * GB, "it is not counted twice"


def test_memory_that_a_driver_still_counts_for_the_dead_is_others_until_it_is_free() -> None:
    made = on_gpu(Cost(0, 4 * GB), 8 * GB)
    for worker in (1, 2):
        made.reserve(worker, "cuda:0")
        made.measure(worker, 0, warm=True)
        made.weigh(worker, 4 * GB, warm=True)
    full = {HOST: Reading(64 * GB, 0), "cuda:0": Reading(8 * GB, 8 * GB)}
    made.update(full, 0)
    made.release(1)
    made.update(full, 0)
    assert made.place() is None
    assert made.overshot() == [], "the living are not to pay for it"
    made.update({**full, "cuda:0": Reading(8 * GB, 4 * GB)}, 0)
    assert made.place() == "cuda:0"
    made.reserve(3, "cuda:0")
    made.update(full, 0)
    assert made.overshot() == [], "nor is one to pay that was spawned before the driver was read"


def test_a_gpu_that_cannot_be_read_has_no_room_and_no_worker_goes_to_the_host_instead() -> None:
    made = on_gpu(Cost(0, GB), 8 * GB)
    made.update({HOST: Reading(64 * GB, 0), "cuda:0": None}, 0)
    assert (made.places, made.place(), made.room(4)) == ([], None, 0)
    assert made.bottleneck() == "cuda:0"
    assert made.shortfall() is None, "it may come back"
    made.update({HOST: Reading(64 * GB, 0), "cuda:0": Reading(8 * GB, 0)}, 0)
    assert (made.place(), made.room(4)) == ("cuda:0", 4)


def test_reserve_and_cap_hold_for_every_gpu() -> None:
    made = on_gpu(Cost(0, GB), 8 * GB, reserve=3 * GB)
    assert made.room(99) == 5
    made = on_gpu(Cost(0, GB), 8 * GB, cap=2 * GB)
    made.update({HOST: Reading(GB, 0), **{f"cuda:{n}": Reading(8 * GB, 0) for n in (0, 1)}}, 0)
    assert made.room(99) == 4


@pytest.mark.parametrize(
    ("made", "device", "most"),
    [
        (ledger(Cost(8 * GB), reserve=Cost(GB)), HOST, 7 * GB),
        (ledger(Cost(2 * GB), caps=Limits(GB)), HOST, GB),
        (on_gpu(Cost(0, 4 * GB), 4 * GB, reserve=GB), "cuda:0", 3 * GB),
        (on_gpu(Cost(0, 4 * GB), 24 * GB, cap=GB), "cuda:0", GB),
    ],
)
def test_a_budget_below_one_worker_is_told(made: Ledger, device: str, most: int) -> None:
    found = made.shortfall()
    assert found is not None
    assert (found.device, found.most, found.measured) == (device, most, False)


def test_a_device_that_others_fill_is_no_shortfall() -> None:
    assert ledger(Cost(GB), used=8 * GB).shortfall() is None
    assert on_gpu(Cost(0, GB), 8 * GB, used=8 * GB).shortfall() is None


def test_a_worker_measured_above_the_cap_is_a_shortfall_and_a_guess_is_not() -> None:
    made = on_gpu(Cost(0, GB), 24 * GB, cap=2 * GB)
    made.reserve(1, "cuda:0")
    made.measure(1, 0, warm=True)
    made.weigh(1, 3 * GB, warm=True, guessed=True)
    assert made.shortfall() is None
    made.weigh(1, 3 * GB, warm=True)
    assert made.shortfall() == Shortfall(
        "cuda:0", 3 * GB, 2 * GB, 24 * GB, measured=True, cap=2 * GB, reserve=0
    )


# --- the arithmetic -----------------------------------------------------------------------------


costs = st.builds(Cost, host=st.integers(0, 9), device=st.integers(0, 9))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 5), st.sampled_from([HOST, "cuda:0"])),
        st.tuples(st.just("measure"), st.integers(0, 5), costs),
        st.tuples(st.just("leave"), st.integers(0, 5), st.none()),
        st.tuples(st.just("release"), st.integers(0, 5), st.none()),
    ),
    max_size=40,
)


@given(actions)
def test_the_running_sums_are_the_sums(actions: list[tuple[str, int, object]]) -> None:
    made = Ledger(BudgetSettings(estimate=Cost(3, 4)))
    made.update({HOST: Reading(1_000, 0), "cuda:0": Reading(1_000, 0)}, 7)
    alive: set[int] = set()
    for action, worker, detail in actions:
        if action == "reserve" and worker not in alive:
            assert isinstance(detail, str)
            made.reserve(worker, detail)
            alive.add(worker)
        elif worker in alive and action == "measure":
            assert isinstance(detail, Cost)
            made.measure(worker, detail.host, warm=True)
            made.weigh(worker, detail.device, warm=True, guessed=detail.host > 7)
        elif worker in alive and action == "leave":
            made.leave(worker)
        elif worker in alive and action == "release":
            made.release(worker)
            alive.remove(worker)
    for device, zygote in ((HOST, 7), ("cuda:0", 0)):
        held = sum(made._holdings[worker].on(device) for worker in alive)
        assert made.free(device) == 1_000 - zygote - held
        assert made.free(device, without=alive) == 1_000 - zygote
        account = made._accounts[device]
        assert account.workers == sum(
            device in holding.devices() for holding in made._holdings.values()
        )
        assert account.leaving == sum(
            holding.on(device) for holding in made._holdings.values() if holding.leaving
        )
