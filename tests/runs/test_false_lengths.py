"""A dataset whose number of samples differs from its ``__len__``: one warning, and a correct record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch.utils.data import IterableDataset

from loaderlab.config import TrainConfig, UserError
from loaderlab.runs.job import single
from loaderlab.runs.run import run
from loaderlab.system import terminal as terminal_module
from loaderlab.system.terminal import Terminal

Make = Callable[..., TrainConfig]
SETTINGS = (
    "data=custom",
    f"data.target={__name__}:streams",
    "data.num_classes=2",
    "model=feedforward",
    "model.hidden=[2]",
    "batch_size=10",
    "loader.num_workers=0",
)


class Stream(IterableDataset[tuple[torch.Tensor, int]]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return ((torch.full((3,), index / self.count), index % 2) for index in range(self.count))


class Claiming(Stream):
    def __init__(self, count: int, claim: int) -> None:
        super().__init__(count)
        self.claim = claim

    def __len__(self) -> int:
        return self.claim


def streams(count: int, claim: int | None, val_count: int, val_claim: int | None) -> tuple[Stream, Stream]:
    train = Stream(count) if claim is None else Claiming(count, claim)
    return train, Stream(val_count) if val_claim is None else Claiming(val_count, val_claim)


def go(
    make_config: Make, terminal: Terminal, counts: tuple[int, int | None, int, int | None], *overrides: str
) -> tuple[MlflowClient, str]:
    names = ("count", "claim", "val_count", "val_claim")
    options = ",".join(
        f"{name}:{'null' if value is None else value}" for name, value in zip(names, counts, strict=True)
    )
    config = make_config(*SETTINGS, f"+data.options={{{options}}}", *overrides)
    return MlflowClient(config.tracking.uri), run(config, single(config, []), terminal).run_id


def warnings_of(terminal: Terminal) -> list[str]:
    return [line for line in terminal.said if "__len__ says" in line]


@pytest.mark.parametrize(("claim", "drop_last"), [(20, "true"), (1000, "false")])
def test_with_a_cosine_schedule(claim: int, drop_last: str, make_config: Make, terminal: Terminal) -> None:
    settings = ("epochs=5", f"drop_last={drop_last}", "optimizer.lr=1.0", "optimizer.schedule=cosine")
    client, run_id = go(make_config, terminal, (203, claim, 30, 30), *settings, "tracking.log_every=1")
    steps = 20 if drop_last == "true" else 21
    (line,) = warnings_of(terminal)
    assert f"the training dataset gave 203 samples in an epoch, but its __len__ says {claim}" in line
    record = client.get_run(run_id)
    assert record.data.tags["data.samples"] == "203 training, 30 validation samples"
    assert "203 training, 30 validation samples" in record.data.tags["mlflow.note.content"]
    rates = [point.value for point in client.get_metric_history(run_id, "train/learning_rate")]
    assert len(rates) >= 5 * steps
    assert all(rate > 0 for rate in rates)
    assert rates[3 * steps] == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 5)).item()), rel=1e-5)


@pytest.mark.parametrize(("claim", "first_total"), [(20, 10), (1000, 500), (None, None)])
def test_progress_shows_no_wrong_total(
    claim: int | None, first_total: int | None, make_config: Make, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the claimed number while it can be right, then no total, and from the second epoch on the actual number."""
    monkeypatch.setattr(terminal_module, "REDRAW_S", 0.0)
    monkeypatch.setattr(terminal_module, "QUIET_S", 0.0)
    schedule = "optimizer.schedule=constant"
    go(make_config, terminal, (200, claim, 30, 30), "epochs=5", "evaluate=false", schedule)
    shown = [match for line in terminal.said if (match := re.match(r"training (\d+)(?:/(\d+))? epoch (\d)", line))]
    assert len(shown) > 4
    for step, total, epoch in (match.groups() for match in shown):
        if int(epoch) > 1:
            assert total == "100"
        else:
            assert total == (str(first_total) if first_total and int(step) <= first_total else None)


def test_a_validation_set_is_counted_too(make_config: Make, terminal: Terminal) -> None:
    client, run_id = go(make_config, terminal, (40, 40, 30, 7), "epochs=2")
    (line,) = warnings_of(terminal)
    assert "the validation dataset gave 30 samples in an epoch, but its __len__ says 7" in line
    assert client.get_run(run_id).data.tags["data.samples"] == "40 training, 30 validation samples"


def test_a_run_that_ends_within_the_first_epoch_reports_at_least(make_config: Make, terminal: Terminal) -> None:
    client, run_id = go(make_config, terminal, (200, 20, 30, None), "steps=5")
    (line,) = warnings_of(terminal)
    assert "gave at least 50 samples" in line
    assert client.get_run(run_id).data.tags["data.samples"] == "at least 50 training, 30 validation samples"


def test_a_correct_length_causes_no_warning(make_config: Make, terminal: Terminal) -> None:
    client, run_id = go(make_config, terminal, (43, 43, 30, 30), "epochs=2", "evaluate=false")
    assert warnings_of(terminal) == []
    assert client.get_run(run_id).data.tags["data.samples"] == "43 training, 30 (by its __len__) validation samples"


def test_a_missing_length_is_unknown_until_the_samples_are_counted(make_config: Make, terminal: Terminal) -> None:
    client, run_id = go(make_config, terminal, (40, None, 30, None), "epochs=2", "optimizer.schedule=constant")
    assert any("custom: unknown training, unknown validation samples" in line for line in terminal.said)
    assert client.get_run(run_id).data.tags["data.samples"] == "40 training, 30 validation samples"


def test_a_length_below_one_batch(make_config: Make, terminal: Terminal) -> None:
    client, run_id = go(make_config, terminal, (40, 3, 30, 30), "epochs=1", "drop_last=true")
    assert client.get_run(run_id).data.tags["data.samples"] == "40 training, 30 validation samples"


def test_a_resumed_run_uses_the_earlier_count(make_config: Make, terminal: Terminal) -> None:
    settings = ("optimizer.lr=1.0", "optimizer.schedule=linear", "checkpoint.every_minutes=0", "checkpoint.keep=true")
    go(make_config, terminal, (200, 20, 30, 30), "epochs=2", *settings)
    client, run_id = go(
        make_config, terminal, (200, 20, 30, 30), "epochs=4", "resume=latest", "tracking.log_every=1", *settings
    )
    rates = [point.value for point in client.get_metric_history(run_id, "train/learning_rate")]
    assert rates[:40] == [pytest.approx(1 - update / 80) for update in range(40, 80)]


class TooLong(list[tuple[torch.Tensor, int]]):
    """A map-style dataset of 30 items whose length is 50."""

    def __len__(self) -> int:
        return 50


def too_long() -> TooLong:
    return TooLong([(torch.zeros(3), 0)] * 30)


def test_a_map_style_dataset_that_is_shorter_than_its_length(make_config: Make, terminal: Terminal) -> None:
    config = make_config(*SETTINGS, f"data.target={__name__}:too_long", "epochs=1")
    with pytest.raises(UserError, match="IndexError: list index out of range; its __len__ says 50"):
        run(config, single(config, []), terminal)


class Growing(list[tuple[torch.Tensor, int]]):
    """A map-style dataset whose length changes with each call: only the first value is used."""

    num_calls = 0

    def __len__(self) -> int:
        self.num_calls += 1
        return 20 + 10 * self.num_calls


def growing() -> Growing:
    return Growing([(torch.zeros(3), 0)] * 200)


def test_the_length_of_a_map_style_dataset_is_read_once(make_config: Make, terminal: Terminal) -> None:
    config = make_config(*SETTINGS, f"data.target={__name__}:growing", "epochs=1", "drop_last=false", "batch_size=7")
    run_id = run(config, single(config, []), terminal).run_id
    record = MlflowClient(config.tracking.uri).get_run(run_id)
    assert record.data.tags["data.samples"] == "30 training, 0 validation samples"
