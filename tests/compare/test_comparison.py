"""Which runs make an arm, which arms are compared, and what is said of them: on records with figures easy to check."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from loaderlab.compare.arms import Comparison
from loaderlab.compare.axes import ceilings_that_differ, curve, grid, hidden_gains
from loaderlab.compare.comparison import compare
from loaderlab.config import UserError
from loaderlab.tracking.records import Missing
from tests.records import arms, by_precision, recorded


def made(*runs: Any, **options: Any) -> Comparison:
    return compare("a sweep", list(runs), **options)


def test_columns_are_what_differs_and_repeats_make_no_arm() -> None:
    found = made(*arms({"native": [100, 110, 90], "dali": [200, 220, 180]}))
    assert found.columns == ["loader.name"]
    ((native, dali),) = [group.arms for group in found.groups]
    assert [arm.label for arm in (native, dali)] == ["native", "dali"]
    assert native.values == [100, 110, 90]
    assert native.partner is None
    assert dali.partner is native
    assert dali.gain is not None
    assert dali.gain.value == pytest.approx(2)
    assert dali.gain.num_pairs == 3
    assert dali.interval is not None


def test_nothing_of_a_comparison_can_be_assigned_to() -> None:
    comparison = made(*arms({"native": [100] * 3, "dali": [200] * 3}))
    for entry, name in (
        (comparison, "groups"),
        (comparison.groups[0], "baseline"),
        (comparison.arms[0], "is_baseline"),
        (comparison.arms[1], "gain"),
        (comparison.arms[1], "runs"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(entry, name, None)


def test_settings_that_only_one_choice_has_are_no_columns() -> None:
    runs = [
        recorded(100, loader__num_workers=0),
        recorded(120, loader__num_workers=2),
        recorded(150, loader__name="dali", loader__num_threads=2),
    ]
    found = made(*runs)
    assert found.columns == ["loader.name", "loader.num_workers"]
    assert [arm.label for arm in found.arms] == ["native · num_workers=0", "native · num_workers=2", "dali"]
    assert found.arms[2].settings["loader.num_workers"] is None


def test_time_is_better_when_it_is_less() -> None:
    found = made(*arms({"native": [100] * 3, "dali": [200] * 3}), metric="time/train_s")
    assert found.arms[1].gain is not None
    assert found.arms[1].gain.value == pytest.approx(2)


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 32},
        {"data__transform__image_size": 96},
        {"model__name": "resnet18"},
        {"epochs": 4},
        {"tags": {"device.name": "another"}},
        {"tags": {"data.samples": "100 + 20"}},
    ],
    ids=lambda value: "".join(value),
)
def test_unlike_work_is_in_a_group_of_its_own(other: dict[str, Any]) -> None:
    like: dict[str, Any] = {"data__transform__image_size": 64, "tags": {"data.samples": "200 + 20"}}
    runs = [*arms({"native": [100] * 3, "dali": [200] * 3}, **like), *arms({"dali": [300] * 3}, **{**like, **other})]
    found = made(*runs)
    assert len(found.groups) == 2
    assert list(found.groups[0].work) == list(found.groups[1].work)
    (only,) = found.groups[1].arms
    assert (only.gain, only.partner) == (None, None)


def test_a_loader_that_was_not_checked_is_flagged_and_one_of_unlike_work_stands_apart() -> None:
    runs = arms({"native": [100] * 3}, tags={"parity": "same work"})
    runs += arms({"dali": [200] * 3}, tags={"parity": "not checked: its process was ended by SIGSEGV"})
    runs += arms({"replay": [300] * 3})
    found = made(*runs)
    assert [arm.label for arm in found.arms] == ["native", "dali", "replay"]
    assert found.groups[0].work == {}
    assert found.arms[1].notes == [
        "not checked: its process was ended by SIGSEGV: whether it does the same work as the others is not known"
    ]
    runs += arms({"odd": [400] * 3}, tags={"parity": "unlike work: pixels: sample 3 differs"})
    alike, apart = made(*runs).groups
    assert [arm.label for arm in alike.arms] == ["native", "dali", "replay"]
    assert (apart.work, apart.arms[0].partner) == ({"parity": "unlike work: pixels: sample 3 differs"}, None)
    assert alike.work == {"parity": "no mismatch found"}


def test_other_versions_are_flagged_in_place() -> None:
    runs = arms({"native": [100] * 3}, tags={"versions": "torch 2.14"}) + arms(
        {"dali": [200] * 3}, tags={"versions": "torch 2.15"}
    )
    found = made(*runs)
    (note,) = found.arms[1].notes
    assert note == "other versions than native: torch 2.15, there torch 2.14"
    assert "runs of 2 sets of versions" in found.notes[0]


def test_pairs_are_of_one_seed() -> None:
    runs = [
        recorded(100, seed=5, repeat=1),
        recorded(400, seed=9, repeat=1),
        recorded(300, seed=0, repeat=6, loader__name="dali"),
    ]
    found = made(*runs)
    assert found.arms[1].gain is not None
    assert found.arms[1].gain.value == pytest.approx(3)
    assert found.arms[1].gain.num_pairs == 1  # seed 6 in both
    alone = made(recorded(100, repeat=1), recorded(300, repeat=2, loader__name="dali"))
    assert alone.arms[1].gain is None
    assert "no round in common" in alone.arms[1].notes[0]


GRID = [(loader, precision) for loader in ("native", "dali") for precision in ("fp32", "bf16")]


def test_a_baseline_is_the_arm_that_agrees_in_all_else() -> None:
    runs = [
        recorded(100 * (1 + index), loader__name=loader, precision__name=precision)
        for index, (loader, precision) in enumerate(GRID)
    ]
    found = made(*runs, baseline={"loader.name": "native"})
    partners = {arm.label: arm.partner.label if arm.partner else None for arm in found.arms}
    assert partners == {
        "native · fp32": None,
        "native · bf16": None,
        "dali · fp32": "native · fp32",
        "dali · bf16": "native · bf16",
    }
    found = made(*runs, baseline={"loader.name": "dali", "precision.name": "bf16"})
    assert [arm.partner.label if arm.partner else None for arm in found.arms] == ["dali · bf16"] * 3 + [None]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"loader.name": "nosuch"}, "baseline=loader:nosuch: no arm has this value. loader is one of: dali, native"),
        ({"colour": "red"}, "baseline=colour:red: no run has this setting. Settings that differ: loader"),
    ],
)
def test_a_baseline_that_is_not_there(baseline: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(*arms({"native": [100], "dali": [200]}), baseline=baseline)


def test_an_arm_that_learns_differently_is_flagged() -> None:
    losses = {"native": [0.10, 0.11, 0.10], "dali": [0.20, 0.22, 0.21], "replay": [0.9, 0.9, 0.9]}
    runs = [
        recorded(100, repeat=index, loader__name=loader, figures={"val/loss": values[index]})
        for index in range(3)
        for loader, values in losses.items()
    ]
    native, dali, replay = made(*runs).arms
    assert native.learning == []
    (told,) = dali.learning
    assert told.startswith("validation loss 2.0")
    assert replay.learning == []  # a ceiling is not meant to learn
    assert replay.is_ceiling


def test_what_was_not_measured_is_told_unless_it_was_done_again() -> None:
    runs = [
        recorded(100, repeat=1, tags={"config.hash": "a"}),
        recorded(0, repeat=2, status="FAILED", tags={"config.hash": "b", "error": "out of memory"}),
        recorded(0, repeat=3, status="KILLED", tags={"config.hash": "c"}),
        recorded(100, repeat=3, tags={"config.hash": "c"}),
        recorded(0, repeat=4, tags={"config.hash": "d"}),
    ]
    found = made(*runs, missing=[Missing("pinned", "not applicable here: no GPU")])
    assert [entry.why for entry in found.missing] == [
        "not applicable here: no GPU",
        "failed: out of memory",
        "finished without rate/samples_per_s",
    ]


def test_runs_without_the_metric() -> None:
    with pytest.raises(
        UserError, match=r"metric=energy/joules_per_sample: none of 1 runs has it .* metric=rate/samples_per_s"
    ):
        made(recorded(100), metric="energy/joules_per_sample")
    with pytest.raises(UserError) as raised:  # what broke off has no figure to hold against anything
        made(recorded(100, status="KILLED"), metric="time/train_s")
    assert "Type" not in str(raised.value)
    with pytest.raises(UserError, match="there is no run to compare"):
        made()


def test_noise_says_how_many_repeats_it_would_take() -> None:
    found = made(*arms({"native": [100, 100, 100], "dali": [100, 150, 80]}))
    (note,) = found.arms[1].notes
    assert note.startswith("too noisy to tell 10 %: a difference of 5 % would take about ")


def test_a_busy_machine_is_told() -> None:
    found = made(recorded(100, figures={"machine/busy_pct": 60.0}), recorded(100, loader__name="dali"))
    assert "60 %" in found.arms[0].notes[0]
    assert found.arms[1].notes == []


def test_what_the_loader_hides_of_a_precisions_gain() -> None:
    rates = {
        ("native", "fp32"): (100, 200),
        ("native", "bf16"): (100, 340),
        ("dali", "fp32"): (150, 202),
        ("dali", "bf16"): (255, 344),
    }
    runs = by_precision(rates)
    found = made(*runs)
    cells = grid(found.groups[0], found.columns)
    native, dali = hidden_gains(cells)
    assert (native.loader, native.precision, native.over) == ("native", "bf16", "fp32")
    assert (native.at_ceiling.value, native.with_loader.value) == pytest.approx((1.7, 1.0))
    assert (dali.at_ceiling.value, dali.with_loader.value) == pytest.approx((344 / 202, 1.7))
    assert ceilings_that_differ(cells) == []
    assert grid(found.groups[0], ["loader.name"]) == {}


def test_ceilings_of_one_precision_must_agree() -> None:
    runs = [
        recorded(
            100,
            repeat=repeat,
            loader__name=loader,
            precision__name=precision,
            figures={"rate/ceiling_samples_per_s": {"native": 200, "dali": 260}[loader]},
        )
        for repeat in (1, 2, 3)
        for loader, precision in GRID
    ]
    found = made(*runs)
    told = ceilings_that_differ(grid(found.groups[0], found.columns))
    assert [(precision, loader, base) for precision, loader, base, _ in told] == [
        ("fp32", "dali", "native"),
        ("bf16", "dali", "native"),
    ]


def test_the_knee_is_the_fewest_workers_that_are_near_the_best() -> None:
    rates = {0: 100, 1: 190, 2: 290, 4: 300, 8: 295}
    runs = [recorded(rate, loader__num_workers=count) for count, rate in rates.items()]
    found = made(*runs)
    told = curve(found.groups[0], found.columns)
    assert told is not None
    assert (told.knee[0], told.best[0]) == (2, 4)
    assert [count for count, _ in told.arms] == [0, 1, 2, 4, 8]
    assert curve(found.groups[0], ["precision.name"]) is None


def test_a_ladder_is_told_rung_by_rung() -> None:
    settings = [("single", 0, 100), ("workers", 2, 200), ("persistent", 2, 300)]
    runs = [
        recorded(
            rate,
            repeat=repeat,
            rung=rung,
            study="ladder",
            loader__num_workers=count,
            loader__persistent_workers=rung == "persistent",
        )
        for repeat in (1, 2, 3)
        for rung, count, rate in settings
    ]
    found = made(*runs)
    assert (found.columns, found.study) == (["rung"], "ladder")
    single, workers, persistent = found.arms
    assert [arm.label for arm in found.arms] == ["single", "workers", "persistent"]
    assert persistent.gain is not None
    assert persistent.over_previous is not None
    assert (persistent.gain.value, persistent.over_previous.value) == pytest.approx((3, 1.5))
    assert single.over_previous is None
    assert workers.partner is single


def test_runs_of_several_sweeps_were_not_interleaved() -> None:
    found = made(recorded(100), recorded(120, parent="another", loader__name="dali"))
    assert "not interleaved" in found.notes[-1]


def test_pairs_are_of_one_sweep_where_arms_share_one() -> None:
    runs = arms({"native": [100] * 3}, parent="p") + arms({"native": [50] * 3, "dali": [50] * 3}, parent="q")
    dali = compare("two sweeps", runs).arms[1]
    assert dali.gain is not None
    assert (dali.gain.value, dali.gain.num_pairs) == (1, 3)
    apart = arms({"native": [100] * 3}, parent="p") + arms({"dali": [50] * 3}, parent="q")
    (told,) = [arm.gain for arm in compare("apart", apart).arms if arm.gain is not None]
    assert told.value == pytest.approx(0.5)  # by their seeds, with a note that they were not interleaved


def test_a_loss_that_is_no_number_is_flagged() -> None:
    well = arms({"native": [100] * 3})
    broken = arms({"dali": [150] * 3}, tags={"not_finite": "train/loss, val/loss"})
    for run in broken:
        for name in ("train/loss", "val/loss"):
            del run.figures[name]  # type: ignore[attr-defined]
    native, dali = compare("a sweep", well + broken).arms
    assert dali.learning == [
        "training loss is no number in 3 of 3 rounds",
        "validation loss is no number in 3 of 3 rounds",
    ]
    assert dali.notes[0] == "its training loss ended as no number in 3 of 3 runs"
    backwards = compare("a sweep", broken + well).arms[1]
    assert backwards.learning[0] == "training loss of dali is no number in 3 of 3 rounds"
    assert native.notes == []


def test_an_accuracy_that_collapsed_to_nothing_is_flagged() -> None:
    runs = arms({"native": [100] * 3}) + arms({"dali": [150] * 3}, figures={"val/accuracy": 0.0})
    assert compare("a sweep", runs).arms[1].learning == ["validation accuracy is 0 in 3 of 3 rounds"]


def test_runs_that_were_not_evaluated_are_no_collapse() -> None:
    other = arms({"dali": [150] * 3})
    for run in other:
        for name in ("val/accuracy", "val/loss"):
            del run.figures[name]  # type: ignore[attr-defined]
    assert compare("a sweep", arms({"native": [100] * 3}) + other).arms[1].learning == []


def test_other_compute_threads_are_told_on_a_processor() -> None:
    tags = {"torch_threads.in_force": "1", "device.type": "cpu"}
    runs = arms({"native": [100] * 3}, tags=tags | {"torch_threads.in_force": "2"}) + arms(
        {"dali": [200] * 3}, tags=tags
    )
    (note,) = compare("a sweep", runs).arms[1].notes
    assert note.startswith("its step computes with 1 thread, that of native with 2 threads")
    on_gpu = [replace(run, tags={**run.tags, "device.type": "cuda"}) for run in runs]
    assert compare("a sweep", on_gpu).arms[1].notes == []


def test_a_figure_that_few_runs_have_does_not_speak_for_the_arm() -> None:
    runs = arms({"native": [100] * 5})
    for run in runs[1:]:
        del run.figures["rate/ceiling_samples_per_s"]  # type: ignore[attr-defined]
    (arm,) = compare("a sweep", runs).arms
    assert (arm.median("rate/ceiling_samples_per_s"), arm.settled("rate/ceiling_samples_per_s")) == (150, None)
    assert arm.settled("rate/samples_per_s") == 100


def test_one_pair_of_ceilings_claims_nothing() -> None:
    runs = [
        recorded(100, loader__name=loader, precision__name=precision, figures={"rate/ceiling_samples_per_s": ceiling})
        for loader, ceiling in (("native", 1000), ("dali", 1500))
        for precision in ("fp32", "bf16")
    ]
    found = compare("a sweep", runs)
    assert ceilings_that_differ(grid(found.groups[0], found.columns)) == []


def test_single_runs_and_one_sweep_need_no_note() -> None:
    assert compare("all runs", arms({"native": [100] * 3, "dali": [100] * 3})).notes == []


def test_what_another_sweep_finished_does_not_hide_a_failure() -> None:
    job = {"config.hash": "one job"}
    runs = [recorded(100, parent="old", tags=job), recorded(100, repeat=2, parent="new")]
    failed = recorded(0, status="FAILED", parent="new", tags=job | {"error": "it broke"})
    assert [entry.why for entry in made(*runs, failed).missing] == ["failed: it broke"]
    assert made(*runs, failed, recorded(100, parent="new", tags=job)).missing == []


def test_rungs_keep_their_order_whichever_run_failed() -> None:
    rates = {"single": 100, "workers": 200, "persistent": 210, "ceiling": 310}
    runs = [
        recorded(rate, repeat=repeat, rung=rung, loader__num_workers=number)
        for repeat in (1, 2, 3, 4)
        for number, (rung, rate) in enumerate(rates.items())
        if (rung, repeat) not in (("single", 1), ("workers", 1))
    ]
    found = made(*runs)
    assert [arm.label for arm in found.arms] == list(rates)
    assert found.groups[0].baseline is found.arms[0]
    assert [arm.over_previous.value for arm in found.arms[1:3] if arm.over_previous] == pytest.approx([2, 1.05])


def test_two_ladders_are_told_apart() -> None:
    runs = [
        recorded(rate * speed, repeat=repeat, rung=rung, parent=sweep, sweep=sweep, loader__num_workers=number)
        for sweep, speed in (("before", 1.0), ("now", 0.8))
        for repeat in (1, 2, 3)
        for number, (rung, rate) in enumerate({"single": 100, "workers": 200}.items())
    ]
    found = made(*runs, baseline={"sweep": "before"})
    assert found.columns == ["sweep", "rung"]
    assert [arm.label for arm in found.arms] == ["before · single", "before · workers", "now · single", "now · workers"]
    assert [arm.gain and pytest.approx(arm.gain.value) for arm in found.arms] == [None, None, 0.8, 0.8]
    assert all(arm.over_previous is None for arm in found.arms)


def test_a_knee_of_what_should_be_little_may_be_at_nothing() -> None:
    runs = [
        recorded(100, loader__num_workers=count, figures={"energy/joules_per_sample": joules})
        for count, joules in ((0, 2.0), (1, 0.0))
    ]
    found = made(*runs, metric="energy/joules_per_sample")
    told = curve(found.groups[0], found.columns)
    assert told is not None
    assert (told.knee[0], told.settled) == (1, False)
