"""How runs become arms, which arms are compared, and the notes on them, from records with round numbers."""

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


def compared(*runs: Any, **options: Any) -> Comparison:
    return compare("a sweep", list(runs), **options)


def test_columns_are_the_settings_that_differ_and_repeats_share_an_arm() -> None:
    comparison = compared(*arms({"native": [100, 110, 90], "dali": [200, 220, 180]}))
    assert comparison.columns == ["loader.name"]
    ((native, dali),) = [group.arms for group in comparison.groups]
    assert [arm.label for arm in (native, dali)] == ["native", "dali"]
    assert native.values == [100, 110, 90]
    assert native.partner is None
    assert dali.partner is native
    assert dali.gain is not None
    assert dali.gain.value == pytest.approx(2)
    assert dali.gain.num_pairs == 3
    assert dali.interval is not None


def test_a_comparison_is_frozen() -> None:
    comparison = compared(*arms({"native": [100] * 3, "dali": [200] * 3}))
    for entry, name in (
        (comparison, "groups"),
        (comparison.groups[0], "baseline"),
        (comparison.arms[0], "is_baseline"),
        (comparison.arms[1], "gain"),
        (comparison.arms[1], "runs"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(entry, name, None)


def test_settings_of_only_one_choice_are_not_columns() -> None:
    runs = [
        recorded(100, loader__num_workers=0),
        recorded(120, loader__num_workers=2),
        recorded(150, loader__name="dali", loader__num_threads=2),
    ]
    comparison = compared(*runs)
    assert comparison.columns == ["loader.name", "loader.num_workers"]
    assert [arm.label for arm in comparison.arms] == ["native · num_workers=0", "native · num_workers=2", "dali"]
    assert comparison.arms[2].settings["loader.num_workers"] is None


def test_less_time_is_a_gain() -> None:
    comparison = compared(*arms({"native": [100] * 3, "dali": [200] * 3}), metric="time/train_s")
    assert comparison.arms[1].gain is not None
    assert comparison.arms[1].gain.value == pytest.approx(2)


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
def test_different_work_is_in_its_own_group(other: dict[str, Any]) -> None:
    same: dict[str, Any] = {"data__transform__image_size": 64, "tags": {"data.samples": "200 + 20"}}
    runs = [*arms({"native": [100] * 3, "dali": [200] * 3}, **same), *arms({"dali": [300] * 3}, **{**same, **other})]
    comparison = compared(*runs)
    assert len(comparison.groups) == 2
    assert list(comparison.groups[0].work) == list(comparison.groups[1].work)
    (only,) = comparison.groups[1].arms
    assert (only.gain, only.partner) == (None, None)


def test_an_unchecked_loader_has_a_note_and_one_with_other_work_has_its_own_group() -> None:
    runs = arms({"native": [100] * 3}, tags={"parity": "same work"})
    runs += arms({"dali": [200] * 3}, tags={"parity": "not checked: its process was ended by SIGSEGV"})
    runs += arms({"replay": [300] * 3})
    comparison = compared(*runs)
    assert [arm.label for arm in comparison.arms] == ["native", "dali", "replay"]
    assert comparison.groups[0].work == {}
    assert comparison.arms[1].notes == [
        "not checked: its process was ended by SIGSEGV. It may not do the same work as the other arms"
    ]
    runs += arms({"odd": [400] * 3}, tags={"parity": "unlike work: pixels: sample 3 differs"})
    matching, other = compared(*runs).groups
    assert [arm.label for arm in matching.arms] == ["native", "dali", "replay"]
    assert (other.work, other.arms[0].partner) == ({"parity": "unlike work: pixels: sample 3 differs"}, None)
    assert matching.work == {"parity": "no mismatch"}


def test_other_versions_are_flagged_in_place() -> None:
    runs = arms({"native": [100] * 3}, tags={"versions": "torch 2.14"}) + arms(
        {"dali": [200] * 3}, tags={"versions": "torch 2.15"}
    )
    comparison = compared(*runs)
    (note,) = comparison.arms[1].notes
    assert note == "different versions from native: torch 2.15 instead of torch 2.14"
    assert "the runs used 2 different sets of versions" in comparison.notes[0]


def test_nodes_that_differ_are_named() -> None:
    runs = arms({"native": [100] * 3}, tags={"node": "n1", "node.processor": "EPYC"})
    runs += arms({"dali": [200] * 3}, tags={"node": "n2", "node.processor": "Xeon"})
    comparison = compared(*runs)
    assert comparison.arms[1].notes == ["measured on n2, but native on n1: the nodes may explain the difference"]
    assert comparison.notes[0] == "the runs were measured on 2 nodes, with different processors: n1 (EPYC), n2 (Xeon)"


def test_one_node_is_no_caveat() -> None:
    tags = {"node": "n1", "node.processor": "EPYC"}
    comparison = compared(*arms({"native": [100] * 3, "dali": [200] * 3}, tags=tags))
    assert not [note for note in (*comparison.notes, *comparison.arms[1].notes) if "node" in note]


def test_pairs_have_the_same_seed() -> None:
    runs = [
        recorded(100, seed=5, repeat=1),
        recorded(400, seed=9, repeat=1),
        recorded(300, seed=0, repeat=6, loader__name="dali"),
    ]
    comparison = compared(*runs)
    assert comparison.arms[1].gain is not None
    assert comparison.arms[1].gain.value == pytest.approx(3)
    assert comparison.arms[1].gain.num_pairs == 1  # seed 6 in both
    unpaired = compared(recorded(100, repeat=1), recorded(300, repeat=2, loader__name="dali"))
    assert unpaired.arms[1].gain is None
    assert "no repeat in common" in unpaired.arms[1].notes[0]


GRID = [(loader, precision) for loader in ("native", "dali") for precision in ("fp32", "bf16")]


def test_the_baseline_is_the_arm_with_the_same_other_settings() -> None:
    runs = [
        recorded(100 * (1 + index), loader__name=loader, precision__name=precision)
        for index, (loader, precision) in enumerate(GRID)
    ]
    comparison = compared(*runs, baseline={"loader.name": "native"})
    partners = {arm.label: arm.partner.label if arm.partner else None for arm in comparison.arms}
    assert partners == {
        "native · fp32": None,
        "native · bf16": None,
        "dali · fp32": "native · fp32",
        "dali · bf16": "native · bf16",
    }
    comparison = compared(*runs, baseline={"loader.name": "dali", "precision.name": "bf16"})
    assert [arm.partner.label if arm.partner else None for arm in comparison.arms] == ["dali · bf16"] * 3 + [None]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"loader.name": "nosuch"}, "baseline=loader:nosuch: no arm has this value. loader is one of: dali, native"),
        ({"colour": "red"}, "baseline=colour:red: no run has this setting. Settings that differ: loader"),
    ],
)
def test_a_baseline_that_no_arm_matches(baseline: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compared(*arms({"native": [100], "dali": [200]}), baseline=baseline)


def test_an_arm_that_learns_differently_is_flagged() -> None:
    losses = {"native": [0.10, 0.11, 0.10], "dali": [0.20, 0.22, 0.21], "replay": [0.9, 0.9, 0.9]}
    runs = [
        recorded(100, repeat=index, loader__name=loader, figures={"val/loss": values[index]})
        for index in range(3)
        for loader, values in losses.items()
    ]
    native, dali, replay = compared(*runs).arms
    assert native.learning == []
    (difference,) = dali.learning
    assert difference.startswith("validation loss 2.0")
    assert "(97.5 % CI 1." in difference  # validation loss and accuracy: two tests at 2.5 % each
    assert replay.learning == []  # a ceiling is not expected to learn
    assert replay.is_ceiling


def test_jobs_without_a_value_are_listed_unless_another_run_finished() -> None:
    runs = [
        recorded(100, repeat=1, tags={"config.hash": "a"}),
        recorded(0, repeat=2, status="FAILED", tags={"config.hash": "b", "error": "out of memory"}),
        recorded(0, repeat=3, status="KILLED", tags={"config.hash": "c"}),
        recorded(100, repeat=3, tags={"config.hash": "c"}),
        recorded(0, repeat=4, tags={"config.hash": "d"}),
    ]
    comparison = compared(*runs, missing=[Missing("pinned", "not applicable here: no GPU")])
    assert [entry.why for entry in comparison.missing] == [
        "not applicable here: no GPU",
        "failed: out of memory",
        "finished without rate/samples_per_s",
    ]


def test_runs_without_the_metric() -> None:
    with pytest.raises(
        UserError, match=r"metric=energy/joules_per_sample: none of 1 runs has it .* metric=rate/samples_per_s"
    ):
        compared(recorded(100), metric="energy/joules_per_sample")
    with pytest.raises(UserError) as raised:  # a killed run has no value to compare
        compared(recorded(100, status="KILLED"), metric="time/train_s")
    assert "Type" not in str(raised.value)
    with pytest.raises(UserError, match="there is no run to compare"):
        compared()


def test_a_noisy_arm_has_a_note_with_the_number_of_repeats() -> None:
    comparison = compared(*arms({"native": [100, 100, 100], "dali": [100, 150, 80]}))
    (note,) = comparison.arms[1].notes
    assert note.startswith("too noisy to show a difference of 10 %; to show 5 % would take about ")


def test_a_busy_machine_is_noted() -> None:
    comparison = compared(recorded(100, figures={"machine/busy_pct": 60.0}), recorded(100, loader__name="dali"))
    assert "60 %" in comparison.arms[0].notes[0]
    assert comparison.arms[1].notes == []


def test_the_part_of_a_precisions_gain_that_the_loader_hides() -> None:
    rates = {
        ("native", "fp32"): (100, 200),
        ("native", "bf16"): (100, 340),
        ("dali", "fp32"): (150, 202),
        ("dali", "bf16"): (255, 344),
    }
    runs = by_precision(rates)
    comparison = compared(*runs)
    cells = grid(comparison.groups[0], comparison.columns)
    native, dali = hidden_gains(cells)
    assert (native.loader, native.precision, native.over) == ("native", "bf16", "fp32")
    assert (native.at_ceiling.value, native.with_loader.value) == pytest.approx((1.7, 1.0))
    assert (dali.at_ceiling.value, dali.with_loader.value) == pytest.approx((344 / 202, 1.7))
    assert ceilings_that_differ(cells) == []
    assert grid(comparison.groups[0], ["loader.name"]) == {}


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
    comparison = compared(*runs)
    differences = ceilings_that_differ(grid(comparison.groups[0], comparison.columns))
    assert [(precision, loader, base) for precision, loader, base, _ in differences] == [
        ("fp32", "dali", "native"),
        ("bf16", "dali", "native"),
    ]


def test_the_knee_is_the_fewest_workers_close_to_the_best() -> None:
    rates = {0: 100, 1: 190, 2: 290, 4: 300, 8: 295}
    runs = [recorded(rate, loader__num_workers=count) for count, rate in rates.items()]
    comparison = compared(*runs)
    points = curve(comparison.groups[0], comparison.columns)
    assert points is not None
    assert (points.knee[0], points.best[0]) == (2, 4)
    assert [count for count, _ in points.arms] == [0, 1, 2, 4, 8]
    assert curve(comparison.groups[0], ["precision.name"]) is None


def test_each_rung_of_a_ladder_is_compared_with_the_previous_one() -> None:
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
    comparison = compared(*runs)
    assert (comparison.columns, comparison.study) == (["rung"], "ladder")
    single, workers, persistent = comparison.arms
    assert [arm.label for arm in comparison.arms] == ["single", "workers", "persistent"]
    assert persistent.gain is not None
    assert persistent.over_previous is not None
    assert (persistent.gain.value, persistent.over_previous.value) == pytest.approx((3, 1.5))
    assert single.over_previous is None
    assert workers.partner is single


def test_runs_of_several_sweeps_were_not_interleaved() -> None:
    comparison = compared(recorded(100), recorded(120, parent="another", loader__name="dali"))
    assert "not interleaved" in comparison.notes[-1]


def test_arms_that_share_a_sweep_are_paired_within_it() -> None:
    runs = arms({"native": [100] * 3}, parent="p") + arms({"native": [50] * 3, "dali": [50] * 3}, parent="q")
    dali = compare("two sweeps", runs).arms[1]
    assert dali.gain is not None
    assert (dali.gain.value, dali.gain.num_pairs) == (1, 3)
    separate = arms({"native": [100] * 3}, parent="p") + arms({"dali": [50] * 3}, parent="q")
    (gain,) = [arm.gain for arm in compare("separate", separate).arms if arm.gain is not None]
    assert gain.value == pytest.approx(0.5)  # paired by seed, with a note that they were not interleaved


def test_a_loss_that_is_not_finite_is_flagged() -> None:
    finite = arms({"native": [100] * 3})
    diverged = arms({"dali": [150] * 3}, tags={"not_finite": "train/loss, val/loss"})
    for run in diverged:
        for name in ("train/loss", "val/loss"):
            del run.figures[name]  # type: ignore[attr-defined]
    native, dali = compare("a sweep", finite + diverged).arms
    assert dali.learning == [
        "training loss is NaN or infinite in 3 of 3 repeats",
        "validation loss is NaN or infinite in 3 of 3 repeats",
    ]
    assert dali.notes[0] == "its training loss ended as NaN or infinity in 3 of 3 runs"
    swapped = compare("a sweep", diverged + finite).arms[1]
    assert swapped.learning[0] == "training loss of dali is NaN or infinite in 3 of 3 repeats"
    assert native.notes == []


def test_an_accuracy_of_zero_is_flagged() -> None:
    runs = arms({"native": [100] * 3}) + arms({"dali": [150] * 3}, figures={"val/accuracy": 0.0})
    assert compare("a sweep", runs).arms[1].learning == ["validation accuracy is 0 in 3 of 3 repeats"]


def test_runs_without_evaluation_do_not_count_as_accuracy_zero() -> None:
    other = arms({"dali": [150] * 3})
    for run in other:
        for name in ("val/accuracy", "val/loss"):
            del run.figures[name]  # type: ignore[attr-defined]
    assert compare("a sweep", arms({"native": [100] * 3}) + other).arms[1].learning == []


def test_different_thread_counts_are_noted_on_a_cpu() -> None:
    tags = {"torch_threads.in_force": "1", "device.type": "cpu"}
    runs = arms({"native": [100] * 3}, tags=tags | {"torch_threads.in_force": "2"}) + arms(
        {"dali": [200] * 3}, tags=tags
    )
    (note,) = compare("a sweep", runs).arms[1].notes
    assert note.startswith("its step used 1 thread, but the step of native used 2 threads, which ")
    on_gpu = [replace(run, tags={**run.tags, "device.type": "cuda"}) for run in runs]
    assert compare("a sweep", on_gpu).arms[1].notes == []


def test_a_median_over_too_few_runs_is_not_reliable() -> None:
    runs = arms({"native": [100] * 5})
    for run in runs[1:]:
        del run.figures["rate/ceiling_samples_per_s"]  # type: ignore[attr-defined]
    (arm,) = compare("a sweep", runs).arms
    assert (arm.median("rate/ceiling_samples_per_s"), arm.reliable_median("rate/ceiling_samples_per_s")) == (150, None)
    assert arm.reliable_median("rate/samples_per_s") == 100


def test_no_claim_is_made_from_one_pair_of_ceilings() -> None:
    runs = [
        recorded(100, loader__name=loader, precision__name=precision, figures={"rate/ceiling_samples_per_s": ceiling})
        for loader, ceiling in (("native", 1000), ("dali", 1500))
        for precision in ("fp32", "bf16")
    ]
    comparison = compare("a sweep", runs)
    assert ceilings_that_differ(grid(comparison.groups[0], comparison.columns)) == []


def test_single_runs_and_one_sweep_need_no_note() -> None:
    assert compare("all runs", arms({"native": [100] * 3, "dali": [100] * 3})).notes == []


def test_a_run_of_another_sweep_does_not_hide_a_failure() -> None:
    job = {"config.hash": "one job"}
    runs = [recorded(100, parent="old", tags=job), recorded(100, repeat=2, parent="new")]
    failed = recorded(0, status="FAILED", parent="new", tags=job | {"error": "it broke"})
    assert [entry.why for entry in compared(*runs, failed).missing] == ["failed: it broke"]
    assert compared(*runs, failed, recorded(100, parent="new", tags=job)).missing == []


def test_rungs_keep_their_order_if_some_runs_failed() -> None:
    rates = {"single": 100, "workers": 200, "persistent": 210, "ceiling": 310}
    runs = [
        recorded(rate, repeat=repeat, rung=rung, loader__num_workers=number)
        for repeat in (1, 2, 3, 4)
        for number, (rung, rate) in enumerate(rates.items())
        if (rung, repeat) not in (("single", 1), ("workers", 1))
    ]
    comparison = compared(*runs)
    assert [arm.label for arm in comparison.arms] == list(rates)
    assert comparison.groups[0].baseline is comparison.arms[0]
    assert [arm.over_previous.value for arm in comparison.arms[1:3] if arm.over_previous] == pytest.approx([2, 1.05])


def test_two_ladders_are_distinguished_by_their_sweep() -> None:
    runs = [
        recorded(rate * speed, repeat=repeat, rung=rung, parent=sweep, sweep=sweep, loader__num_workers=number)
        for sweep, speed in (("before", 1.0), ("now", 0.8))
        for repeat in (1, 2, 3)
        for number, (rung, rate) in enumerate({"single": 100, "workers": 200}.items())
    ]
    comparison = compared(*runs, baseline={"sweep": "before"})
    assert comparison.columns == ["sweep", "rung"]
    assert [arm.label for arm in comparison.arms] == [
        "before · single",
        "before · workers",
        "now · single",
        "now · workers",
    ]
    assert [arm.gain and pytest.approx(arm.gain.value) for arm in comparison.arms] == [None, None, 0.8, 0.8]
    assert all(arm.over_previous is None for arm in comparison.arms)


def test_a_knee_with_a_value_of_zero() -> None:
    runs = [
        recorded(100, loader__num_workers=count, figures={"energy/joules_per_sample": joules})
        for count, joules in ((0, 2.0), (1, 0.0))
    ]
    comparison = compared(*runs, metric="energy/joules_per_sample")
    points = curve(comparison.groups[0], comparison.columns)
    assert points is not None
    assert (points.knee[0], points.has_enough_repeats) == (1, False)
