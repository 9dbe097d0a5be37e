"""Ranks that train together learn what one process learns from the global batch: real processes that communicate over gloo."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loaderlab.data.spec import TransformSpec
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.fetch import requests
from tests.forked import Call, Server
from tests.training.rank_checks import CHECKS, IMAGE_LOADERS

SECONDS = 200.0
CLOSE = 1e-5  # of sums of float32 in another order
QUICK = ("same_weights", "accumulation", "evaluation", "streams", "resume", "own_task")
OF_FOUR = ("same_weights", "same_learning", "samples_of_loaders", "evaluation", "streams")
GROUPS = [
    pytest.param((2, QUICK), id="2"),
    pytest.param((2, tuple(name for name in CHECKS if name not in QUICK)), id="2 more", marks=pytest.mark.slow),
    pytest.param((4, OF_FOUR), id="4", marks=pytest.mark.slow),
]

Results = list[dict[str, Any]]  # of each rank


@pytest.fixture(scope="module", params=GROUPS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, image_tree: Path) -> Results:
    """The results of all checks, which the same processes make one after the other."""
    folder, (world_size, names) = tmp_path_factory.mktemp("ranks"), request.param
    shutil.copytree(image_tree, folder / "images")
    server = Server()
    calls = [
        Call(
            "tests.training.rank_checks:work",
            folder / f"output_{rank}.txt",
            (rank, world_size, str(folder), names),
            {"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(world_size)
    ]
    try:
        started = server.start(*calls)
        codes = started.exit_codes(SECONDS)
        assert codes == [0] * world_size, "\n".join(map(started.text, range(world_size)))
    finally:
        server.close()
    paths = [folder / f"results_{rank}_of_{world_size}.pt" for rank in range(world_size)]
    return [torch.load(path, weights_only=True) for path in paths]


def of(ranks: Results, check: str) -> list[Any]:
    """The results of one check, by rank."""
    if check not in ranks[0]:
        pytest.skip("other processes check this")
    return [results[check] for results in ranks]


def all_same(tensors: list[torch.Tensor]) -> bool:
    """Whether all ranks have bit-identical numbers."""
    return all(torch.equal(tensors[0], other) for other in tensors[1:])


def test_weights_are_bit_identical_after_50_steps(ranks: Results) -> None:
    results = of(ranks, "same_weights")
    assert {result["steps"] for result in results} == {50}
    assert all_same([result["weights"] for result in results])


def test_ranks_learn_what_one_process_learns_from_the_global_batch(ranks: Results) -> None:
    results = of(ranks, "same_learning")
    alone = results[0]["alone"]
    assert len(alone["losses"]) == 40
    assert alone["losses"][-1] < 0.8 * alone["losses"][0]  # it learned
    for result in results:
        assert (result["weights"] - alone["weights"]).abs().max() < CLOSE
        assert (result["losses"] - alone["losses"]).abs().max() < CLOSE


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_gradients_are_exchanged_once_for_each_update(ranks: Results, accumulate: int) -> None:
    results = [result[accumulate] for result in of(ranks, "accumulation")]
    assert all_same([result["weights"] for result in results])
    assert (results[0]["weights"] - results[0]["alone"]).abs().max() < CLOSE
    of_epoch = [step % accumulate == accumulate - 1 or step == 3 for step in range(4)]
    for result in results:
        assert result["has_collective"] == 5 * of_epoch


def test_with_batch_norm_the_difference_is_within_the_spread_of_repeats(ranks: Results) -> None:
    """Each rank normalises its own half of the batch, so the losses differ a little."""
    results = of(ranks, "batch_norm")
    losses, alone = np.array(results[0]["losses"]), np.array(results[0]["alone"])
    assert not np.allclose(losses, alone, rtol=1e-4)
    assert abs(losses.mean() - alone.mean()) < alone.max() - alone.min()
    assert all(result["losses"] == results[0]["losses"] for result in results)


def test_all_ranks_evaluate_with_the_buffers_of_rank_0(ranks: Results) -> None:
    results = of(ranks, "batch_norm")
    for repeat in range(5):
        assert all_same([result["buffers"][repeat] for result in results])
    assert all(all(result["has_collective"]) for result in results)


@pytest.mark.parametrize("loader", IMAGE_LOADERS)
def test_the_samples_of_an_epoch_are_disjoint_and_complete(ranks: Results, loader: str) -> None:
    results = [result[loader] for result in of(ranks, "samples_of_loaders")]
    assert len({num_steps for _, _, num_steps in results}) == 1
    num_samples = results[0][1]
    for epoch in range(2):
        ids = [number for result in results for number in result[0][epoch]]
        assert sorted(ids) == list(range(num_samples))
    assert results[0][0][0] != results[0][0][1]  # another order


def test_augmentation_of_a_users_dataset_differs_by_rank(ranks: Results) -> None:
    for inputs_and_weights in zip(*of(ranks, "augmentation"), strict=True):
        inputs = [numbers for numbers, _ in inputs_and_weights]
        assert len({*inputs[0], *inputs[1]}) == 40
        assert all_same([weights for _, weights in inputs_and_weights])


def test_augmentation_of_images_differs_by_rank_and_step() -> None:
    spec = TransformSpec(size=8, random_crop=True, flip=0.5, scale=(0.5, 1.0), ratio=(1.0, 1.0), resize=8)
    draws = [
        request.draws(spec)[0].tobytes()
        for rank in range(3)
        for request in requests(EpochPlan(30, 2, True, False, 0, rank, 3), 0)
    ]
    assert len(set(draws)) == len(draws) == 15


def test_each_validation_sample_counts_once(ranks: Results) -> None:
    results = of(ranks, "evaluation")
    assert len(results[0]) == 4
    for result in results:
        for measured, alone in result.values():
            assert measured == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_whose_datasets_end_at_different_times_end_together(ranks: Results, accumulate: int) -> None:
    """The last rank has three batches and the others four; with two steps per update, the third step is an update of its own."""
    results = [result[accumulate] for result in of(ranks, "streams")]
    weights, steps, updates = results[0]["alone"]
    assert steps == 9
    assert {(result["steps"], result["updates"]) for result in results} == {(steps, updates)}
    assert all_same([result["weights"] for result in results])
    assert (results[0]["weights"] - weights).abs().max() < CLOSE


def test_a_resumed_run_continues_exactly(ranks: Results) -> None:
    results = of(ranks, "resume")
    for result in results:
        assert torch.equal(result["rest"], result["whole"])
        assert len(result["rest_ids"]) == 2


def test_one_process_continues_the_run_of_several_ranks(ranks: Results) -> None:
    """AdamW divides small gradients by their size, so it is compared less exactly."""
    result = of(ranks, "resume")[0]
    assert (result["alone"] - result["whole"]).abs().max() < 10 * CLOSE


def test_another_global_batch_is_refused_on_every_rank(ranks: Results) -> None:
    refused = {result["refused"] for result in of(ranks, "resume")}
    assert len(refused) == 1
    assert "batch_size (was 32, is 8)" in refused.pop()


def test_a_task_of_ones_own_learns_what_one_process_learns(ranks: Results) -> None:
    results = of(ranks, "own_task")
    alone = results[0]["alone"]
    assert all_same([result["weights"] for result in results])
    assert (results[0]["weights"] - alone["weights"]).abs().max() < CLOSE
    for result in results:
        assert result["validation"].keys() == {"val/loss", "val/boxes"}
        assert result["validation"]["val/boxes"] == pytest.approx(alone["validation"]["val/boxes"])
        assert result["validation"]["val/loss"] == pytest.approx(alone["validation"]["val/loss"], rel=1e-4)


def test_a_step_whose_gradients_would_not_be_averaged_is_refused(ranks: Results) -> None:
    for result in of(ranks, "own_task"):
        assert "model.step: with several ranks it must call model(...) itself" in result["refused"]
