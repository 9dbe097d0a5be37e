"""The plan of an epoch: each sample once, disjoint shards, always the same."""

from __future__ import annotations

import numpy as np
import pytest

from loaderlab.loaders.contract import EpochPlan


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
