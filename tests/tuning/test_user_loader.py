"""A loader that is built again has everything of the user's loader but the settings that the candidate changes."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from loaderlab.config import UserError
from loaderlab.tuning.candidate import Branch, Candidate
from loaderlab.tuning.settings import arguments_of, override_of
from loaderlab.tuning.typed import keywords
from loaderlab.tuning.user_loader import DATALOADER_ARGUMENTS, candidate_of, ends_itself, rebuilt, source_of
from tests.tuning import user_programs as programs
from tests.tuning.user_programs import Sleeping, Stream

SETTINGS = {
    "num_workers",
    "prefetch_factor",
    "pin_memory",
    "persistent_workers",
    "multiprocessing_context",
}
TWO = Candidate(makers=2, prefetch=3, pin_memory=False, persistent=True, start_method="fork")


def loader_with(**arguments: Any) -> DataLoader[torch.Tensor]:
    return DataLoader(Sleeping(), **{"batch_size": 4, "num_workers": 1, **arguments})


GENERATOR = torch.Generator()
OTHERS: dict[str, Any] = {  # each argument that is taken over, with a value that is not its default
    "dataset": Sleeping(40),
    "batch_size": 5,
    "sampler": SequentialSampler(Sleeping(40)),
    "drop_last": True,
    "timeout": 7.0,
    "collate_fn": programs.collate,
    "worker_init_fn": programs.init_worker,
    "generator": GENERATOR,
    "in_order": False,
}


@pytest.mark.parametrize("name", OTHERS)
def test_each_argument_is_taken_over(name: str) -> None:
    again = rebuilt(DataLoader(**{"dataset": Sleeping(), "num_workers": 1, name: OTHERS[name]}), TWO)
    assert getattr(again, name) == OTHERS[name]


def test_every_argument_of_torch_is_known() -> None:
    """A new argument of torch would be lost without a message."""
    by_other_means = {"shuffle", "batch_sampler", "pin_memory_device"}
    assert set(DATALOADER_ARGUMENTS) == set(OTHERS) | SETTINGS | by_other_means


def test_the_settings_are_changed() -> None:
    again = rebuilt(loader_with(), TWO)
    assert (again.num_workers, again.prefetch_factor, again.persistent_workers) == (2, 3, True)
    assert candidate_of(again) == TWO


def test_without_workers_nothing_that_torch_refuses_is_passed() -> None:
    loader = loader_with(timeout=3, multiprocessing_context="fork", persistent_workers=True, prefetch_factor=4)
    again = rebuilt(loader, Candidate(makers=0))
    assert (again.num_workers, again.timeout, again.prefetch_factor) == (0, 0, None)
    assert len(list(again)) == 100


def test_the_samples_and_their_order_stay() -> None:
    loader = loader_with(shuffle=True, generator=torch.Generator(), drop_last=True, num_workers=0)
    again = rebuilt(loader, Candidate())
    loader.generator.manual_seed(3)
    before = torch.cat(list(loader))
    loader.generator.manual_seed(3)
    assert torch.equal(torch.cat(list(again)), before)


def test_a_batch_sampler_is_taken_over() -> None:
    sampler = BatchSampler(RandomSampler(Sleeping()), 3, False)
    again = rebuilt(DataLoader(Sleeping(), batch_sampler=sampler), Candidate())
    assert again.batch_sampler is sampler
    assert again.batch_size is None


def test_a_dataset_of_whole_batches() -> None:
    again = rebuilt(DataLoader(Sleeping(20), batch_size=None), Candidate())
    assert [batch.shape for batch in again] == [(8,)] * 20


def test_a_context_object_is_kept_unless_another_start_method_is_tried() -> None:
    context = multiprocessing.get_context("spawn")
    loader = loader_with(multiprocessing_context=context)
    assert rebuilt(loader, candidate_of(loader)).multiprocessing_context is context
    other = rebuilt(loader, TWO).multiprocessing_context
    assert other is not None
    assert other.get_start_method() == "fork"


@pytest.mark.parametrize(
    "loader",
    [
        loader_with(num_workers=0),
        loader_with(num_workers=0, shuffle=True),
        DataLoader(Sleeping(), batch_sampler=BatchSampler(SequentialSampler(Sleeping()), 3, False)),
        DataLoader(Sleeping(), batch_size=None),
    ],
)
def test_an_epoch_ends_early(loader: DataLoader[Any]) -> None:
    again = source_of(loader).build(Candidate(), 17)
    assert len(list(again)) == len(again) == 17  # type: ignore[arg-type]
    assert ends_itself(again, 17)
    assert len(list(loader)) > 17


def test_a_stream_is_stopped_from_outside() -> None:
    again = source_of(DataLoader(Stream(shares=True), batch_size=4)).build(Candidate(), 17)
    assert len(list(again)) == 100
    assert not ends_itself(again, 17)


# ---- subclasses -------------------------------------------------------------------------------------------------------


def test_a_subclass_that_keeps_its_arguments_is_built_again() -> None:
    again = rebuilt(programs.Kept(Sleeping(), 0.5, batch_size=4, num_workers=1), TWO)
    assert isinstance(again, programs.Kept)
    assert (again.scale, again.num_workers) == (0.5, 2)


@pytest.mark.parametrize("kind", [programs.Batched, programs.Graphs])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("epoch_steps", [None, 17])
def test_a_subclass_keeps_its_batch_size_and_its_order(kind: Any, shuffle: bool, epoch_steps: int | None) -> None:
    """In the confirmation too, where epochs end early."""
    again = source_of(kind(Sleeping(), 4, shuffle)).build(Candidate(), epoch_steps)
    assert isinstance(again, kind)
    assert again.batch_size == 4
    assert isinstance(again.sampler, RandomSampler if shuffle else SequentialSampler)
    assert ends_itself(again, epoch_steps) == (epoch_steps is None)


def test_a_subclass_that_passes_a_batch_sampler_on() -> None:
    sampler = BatchSampler(RandomSampler(Sleeping()), 3, False)
    again = rebuilt(programs.Graphs(Sleeping(), batch_sampler=sampler), Candidate())
    assert again.batch_sampler is sampler


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (programs.Named("data"), "Named cannot be built again: it does not keep its argument folder"),
        (programs.Fixed(Sleeping()), "Fixed cannot be built again: its constructor has no argument "),
        (programs.OwnSampler(Sleeping(), 4), "OwnSampler cannot be built again: it makes its batch sampler itself"),
        (
            programs.OwnSettings(Sleeping(), 4),
            "OwnSettings cannot be built again: the new one would have batches of 1 instead of 4",
        ),
    ],
)
def test_a_loader_that_cannot_be_built_again(loader: DataLoader[Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        source_of(loader)
    assert message in str(error.value)
    assert "def make_loader(num_workers, prefetch_factor" in str(error.value)


# ---- the function form ------------------------------------------------------------------------------------------------


def test_a_function_gets_the_settings() -> None:
    source = source_of(programs.make_loader)
    assert source.current == Candidate(pin_memory=False)
    again = source.build(TWO, 20)
    assert isinstance(again, DataLoader)
    assert candidate_of(again) == TWO
    assert len(again) == 20


def test_a_function_without_a_dataloader_has_a_branch_of_its_own() -> None:
    source = source_of(programs.make_batches)
    assert source.current == Candidate(Branch("own"))
    assert len(list(source.build(TWO))) == 60


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (
            programs.takes_workers_only,
            "must take all of the settings: takes_workers_only() got an unexpected keyword argument 'prefetch_factor'",
        ),
        (
            lambda folder, **settings: None,
            "missing 1 required positional argument: 'folder'",
        ),
        (programs.ignores_settings, "was called with num_workers=0, but its DataLoader has num_workers=1"),
        (lambda **settings: None, "returned NoneType, not a loader"),
        ([1, 2], "list cannot be built with other settings"),
    ],
)
def test_a_function_that_is_refused(loader: Any, message: str) -> None:
    with pytest.raises(UserError, match="def make_loader") as error:
        source_of(loader)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "fixed", "message"),
    [
        ("prefetch_factor", 2, "prefetch_factor=3, but its DataLoader has prefetch_factor=2"),
        ("pin_memory", False, "pin_memory=True, but its DataLoader has pin_memory=False"),
        ("pin_memory", True, "pin_memory=False, but its DataLoader has pin_memory=True"),
        ("persistent_workers", False, "persistent_workers=True, but its DataLoader has persistent_workers=False"),
    ],
)
def test_a_function_that_ignores_a_setting_is_refused(name: str, fixed: Any, message: str) -> None:
    def make_loader(**settings: Any) -> DataLoader[torch.Tensor]:
        with_workers = name == "pin_memory" or settings["num_workers"]
        return programs.make_loader(**{**settings, **({name: fixed} if with_workers else {})})

    with pytest.raises(UserError, match="it must use all of its settings") as error:
        source_of(make_loader)
    assert message in str(error.value)


def test_a_function_may_ignore_pinned_memory_where_it_is_not_tried() -> None:
    def make_loader(pin_memory: bool, **settings: Any) -> DataLoader[torch.Tensor]:
        return programs.make_loader(pin_memory=False, **settings)

    assert source_of(make_loader, pins=False).current == Candidate(pin_memory=False)


def test_an_error_inside_the_function_is_its_own() -> None:
    def make_loader(**settings: Any) -> Any:
        return len(3)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="has no len"):
        source_of(make_loader)


@pytest.mark.parametrize("loader", [loader_with(shuffle=True, generator=GENERATOR), programs.make_loader])
def test_a_source_can_be_sent_to_another_process(loader: Any) -> None:
    source = pickle.loads(pickle.dumps(source_of(loader)))
    assert len(list(source.build(Candidate(), 15))) == 15


# ---- settings ---------------------------------------------------------------------------------------------------------


def test_a_candidate_as_arguments() -> None:
    assert arguments_of(Candidate(makers=0, prefetch=2, persistent=True)) == {
        "num_workers": 0,
        "prefetch_factor": None,
        "pin_memory": False,
        "persistent_workers": False,
        "multiprocessing_context": None,
    }
    assert keywords(Candidate(makers=0, prefetch=2)) == {"num_workers": 0}
    assert override_of(TWO) == (
        "num_workers=2 prefetch_factor=3 pin_memory=False persistent_workers=True multiprocessing_context=fork"
    )
