"""Whose VRAM is whose: by the driver's list where it is ours, by differences where it is not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from voicepool.attribution import Attribution, Member, Phase, Weights
from voicepool.gpu import Gpu

ESTIMATE = 4_000
TOTAL = 24_000


def gpu(used: int, processes: Mapping[int, int | None] | None = None) -> Gpu:
    return Gpu("GPU-a", "0", "A10G", TOTAL, used, None if processes is None else {**processes})


def crew(*phases: Phase, device: str = "cuda:0", first: int = 1) -> dict[int, Member]:
    """Workers 1, 2, ... with the process ids 101, 102, ..."""
    return {n: Member(100 + n, device, phase) for n, phase in enumerate(phases, first)}


class Story:
    """Sights of one GPU, one after another."""

    def __init__(self) -> None:
        self.attribution = Attribution(ESTIMATE)

    def see(
        self,
        seen: Gpu | None,
        *phases: Phase,
        quiet: bool = True,
        first: int = 1,
    ) -> Weights:
        return self.attribution.weigh({"cuda:0": seen}, crew(*phases, first=first), quiet=quiet)


# --- the driver's list ---------------------------------------------------------------------------


def test_what_is_listed_for_a_worker_is_what_it_has() -> None:
    story = Story()
    story.see(gpu(500, {7: 500}))
    story.see(gpu(1_500, {7: 500, 101: 1_000}), "loading")
    seen = story.see(gpu(3_500, {7: 500, 101: 3_000}), "idle")
    assert seen == Weights({1: 3_000}, guessed=False)


def test_nobody_is_weighed_while_loading() -> None:
    assert Story().see(gpu(1_000, {101: 1_000}), "loading").vram == {}


def test_who_is_not_listed_beside_others_who_are_has_nothing() -> None:
    seen = Story().see(gpu(1_000, {101: 1_000}), "idle", "idle")
    assert seen == Weights({1: 1_000, 2: 0}, guessed=False)


def test_a_listed_process_without_a_figure_is_unknown() -> None:
    story = Story()
    story.see(gpu(1_000, {101: 900, 102: 5}), "idle", "idle")
    seen = story.see(gpu(1_000, {101: None, 102: 5}), "idle", "idle")
    assert seen == Weights({1: None, 2: 5}, guessed=False)


def test_a_list_without_figures_is_as_good_as_none() -> None:
    story = Story()
    story.see(gpu(0, {}))
    assert story.see(gpu(3_000, {101: None}), "idle") == Weights({1: 3_000}, guessed=True)


def test_on_a_gpu_that_cannot_be_read_nobody_can_tell() -> None:
    story = Story()
    story.see(gpu(1_000, {101: 1_000}), "idle")
    assert story.see(None, "idle") == Weights({1: None}, guessed=False)


def test_a_process_id_that_was_listed_before_its_worker_was_born_is_somebody_elses() -> None:
    """In a container, where the driver lists by the numbers of the host."""
    story = Story()
    story.see(gpu(9_000, {101: 9_000}))
    story.see(gpu(9_000, {101: 9_000}), "loading")
    seen = story.see(gpu(11_000, {101: 9_000, 5_000: 2_000}), "idle")
    assert not story.attribution.visible
    assert seen == Weights({1: 2_000}, guessed=True)


def test_a_process_id_may_be_used_again_by_the_next_worker() -> None:
    story = Story()
    story.see(gpu(3_000, {101: 3_000}), "idle")
    story.see(gpu(0, {}))
    seen = story.attribution.weigh(
        {"cuda:0": gpu(2_000, {101: 2_000})}, {2: Member(101, "cuda:0", "idle")}, quiet=True
    )
    assert seen.vram == {2: 2_000}


# --- differences ---------------------------------------------------------------------------------


def hidden(used: int) -> Gpu:
    return gpu(used, {})


def test_the_first_worker_is_what_has_become_used_since_before_it_came() -> None:
    story = Story()
    story.see(hidden(500))
    story.see(hidden(1_500), "loading")
    assert story.see(hidden(3_500), "idle") == Weights({1: 3_000}, guessed=True)


def test_the_first_difference_is_not_believed_beyond_what_was_configured() -> None:
    story = Story()
    story.see(hidden(0))
    assert story.see(hidden(12_000), "idle").vram == {1: ESTIMATE}, "an LLM has loaded too"
    story.see(hidden(13_000), "idle", "loading")
    assert story.see(hidden(15_000), "idle", "idle").vram == {1: 3_000, 2: 3_000}


def test_what_is_bigger_than_configured_is_believed_when_it_repeats() -> None:
    story = Story()
    story.see(hidden(0))
    story.see(hidden(5_000), "idle")
    assert story.see(hidden(10_000), "idle", "idle").vram == {1: 5_000, 2: 5_000}


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(("other", "idle"), id="a call"),
        pytest.param(("loading", "idle"), id="another that loads"),
    ],
)
def test_no_difference_is_taken_while_something_else_of_ours_happens(
    between: tuple[Phase, Phase],
) -> None:
    story = Story()
    story.see(hidden(0), between[0])
    assert story.see(hidden(9_000), *between).vram.get(2) is None


def test_who_load_at_once_share_the_difference() -> None:
    story = Story()
    story.see(hidden(0))
    story.see(hidden(12_000), "idle")  # the pilot, and an LLM
    story.see(hidden(14_000), "idle", "loading", "loading")
    story.see(hidden(17_000), "idle", "idle", "loading")
    assert story.see(hidden(18_000), "idle", "idle", "idle").vram == dict.fromkeys((1, 2, 3), 3000)


def test_no_difference_is_taken_between_different_crews() -> None:
    story = Story()
    story.see(hidden(3_000), "idle")
    # 1 has gone and 2 has come between two looks
    assert story.see(hidden(3_000), "idle", first=2).vram == {2: None}


def test_no_difference_is_taken_where_the_crew_changed_during_the_look() -> None:
    story = Story()
    story.see(hidden(0))
    assert story.see(hidden(3_000), "idle", quiet=False).vram == {1: None}
    assert story.see(hidden(3_500), "idle").vram == {1: 3_500}, "the next one will do"


def test_devices_do_not_disturb_each_other() -> None:
    attribution = Attribution(ESTIMATE)
    two = {"cuda:0": hidden(0), "cuda:1": hidden(0)}
    attribution.weigh(two, {}, quiet=True)
    coming = {**crew("idle"), **crew("loading", device="cuda:1", first=2)}
    seen = attribution.weigh({"cuda:0": hidden(3_000), "cuda:1": hidden(700)}, coming, quiet=True)
    assert seen.vram == {1: 3_000}


def test_a_list_that_turns_out_to_be_ours_ends_the_guessing() -> None:
    story = Story()
    story.see(hidden(0))
    assert story.see(hidden(0), "idle").guessed, "it has allocated nothing yet"
    assert story.see(gpu(2_000, {101: 2_000}), "other") == Weights({1: 2_000}, guessed=False)


def test_a_guess_is_the_median_of_the_last_differences() -> None:
    story = Story()
    used = 0
    story.see(hidden(used))
    phases: list[Phase] = []
    for difference in (9_000, 2_000, 2_100, 0):
        used += difference
        phases.append("idle")
        seen = story.see(hidden(used), *phases)
    assert seen.vram[1] == 2_000
