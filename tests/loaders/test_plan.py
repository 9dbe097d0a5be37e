"""The plan of an epoch: each sample once, disjoint shards, always the same."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from loaderlab.loaders.contract import EpochPlan

NUM_SAMPLES, BATCH_SIZES, WORLD_SIZES, EPOCHS = (
    st.integers(0, 300),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(0, 3),
)


def plans_of(num_samples: int, batch_size: int, world_size: int, *, shuffle: bool, drop_last: bool) -> list[EpochPlan]:
    """The plan of each rank."""
    return [EpochPlan(num_samples, batch_size, shuffle, drop_last, 7, rank, world_size) for rank in range(world_size)]


@pytest.mark.parametrize("num_samples", [0, 1, 7, 24, 25])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_sample_once_over_all_ranks(num_samples: int, world_size: int, shuffle: bool) -> None:
    shards = [EpochPlan(num_samples, 4, shuffle, False, 5, rank, world_size) for rank in range(world_size)]
    ids = np.concatenate([np.concatenate([*plan.batches(2), np.empty(0, np.int64)]) for plan in shards])
    assert sorted(ids.tolist()) == list(range(num_samples))
    for plan in shards:
        assert len(plan.batches(2)) == plan.num_steps


def test_dropping_the_last_batch_gives_every_rank_the_same_steps() -> None:
    shards = [EpochPlan(25, 4, True, True, 0, rank, 3) for rank in range(3)]
    assert [plan.num_steps for plan in shards] == [2, 2, 2]
    assert all(len(ids) == 4 for plan in shards for ids in plan.batches(0))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    plan = EpochPlan(100, 10, True, False, 1)
    assert (plan.ids(3) == EpochPlan(100, 10, True, False, 1).ids(3)).all()
    assert (plan.ids(3) != plan.ids(4)).any()
    assert (plan.ids(3) != EpochPlan(100, 10, True, False, 2).ids(3)).any()
    assert (EpochPlan(100, 10, False, False, 1).ids(3) == np.arange(100)).all()


def test_last_batch_is_short_or_dropped() -> None:
    assert [len(ids) for ids in EpochPlan(10, 4, False, False).batches(0)] == [4, 4, 2]
    assert [len(ids) for ids in EpochPlan(10, 4, False, True).batches(0)] == [4, 4]
    assert EpochPlan(3, 4, False, True).num_steps == 0


@given(NUM_SAMPLES, BATCH_SIZES, WORLD_SIZES, EPOCHS, st.booleans(), st.integers(1, 12))
def test_property_a_short_epoch_has_the_first_batches_of_the_whole_one(
    num_samples: int, batch_size: int, world_size: int, epoch: int, drop_last: bool, max_steps: int
) -> None:
    for whole in plans_of(num_samples, batch_size, world_size, shuffle=True, drop_last=drop_last):
        short = replace(whole, max_steps=max_steps)
        expected = [ids.tolist() for ids in whole.batches(epoch)[:max_steps]]
        assert [ids.tolist() for ids in short.batches(epoch)] == expected
        assert (short.num_steps, short.all_steps) == (len(expected), whole.num_steps)
        assert short.last_batch == (len(expected[-1]) if expected else 0)


@given(NUM_SAMPLES, BATCH_SIZES, WORLD_SIZES, EPOCHS, st.booleans(), st.booleans())
def test_property_of_the_shares_of_ranks(
    num_samples: int, batch_size: int, world_size: int, epoch: int, shuffle: bool, drop_last: bool
) -> None:
    """Disjoint and complete; no rank waits for a batch that never comes; no batch is empty or too large."""
    plans = plans_of(num_samples, batch_size, world_size, shuffle=shuffle, drop_last=drop_last)
    batches = [plan.batches(epoch) for plan in plans]
    for plan, own in zip(plans, batches, strict=True):
        assert plan.num_steps == len(own)
        assert plan.last_batch == (len(own[-1]) if own else 0)
        assert all(0 < len(ids) <= batch_size for ids in own)
        assert not drop_last or all(len(ids) == batch_size for ids in own)
    ids = [number for own in batches for batch in own for number in batch.tolist()]
    assert len(ids) == len(set(ids))
    assert set(ids) <= set(range(num_samples))
    if num_samples >= world_size or drop_last:
        assert len({len(own) for own in batches}) == 1
    loses_some = batch_size == 1 and num_samples >= world_size and num_samples % world_size > 0
    if not drop_last and not loses_some:
        assert len(ids) == num_samples
    elif not drop_last:  # a batch of one sample cannot be divided
        assert len(ids) == num_samples - num_samples % world_size


@given(NUM_SAMPLES, st.integers(2, 40), WORLD_SIZES, EPOCHS, st.booleans())
def test_property_ranks_have_the_steps_of_one_process_with_the_global_batch(
    num_samples: int, batch_size: int, world_size: int, epoch: int, drop_last: bool
) -> None:
    """The same number of steps, and in each full step the same samples; so a run may continue with another number of ranks."""
    plans = plans_of(num_samples, batch_size, world_size, shuffle=True, drop_last=drop_last)
    single = EpochPlan(num_samples, batch_size * world_size, True, drop_last, 7)
    whole, shares = single.batches(epoch), [plan.batches(epoch) for plan in plans]
    if num_samples >= world_size:
        assert {plan.num_steps for plan in plans} == {single.num_steps}
    num_full = num_samples // (batch_size * world_size)
    if num_samples % (batch_size * world_size) and not drop_last:
        num_full -= 1  # it may have given a sample to the last batch
    for step in range(num_full):
        together = np.concatenate([own[step] for own in shares])
        assert sorted(together.tolist()) == sorted(whole[step].tolist())
