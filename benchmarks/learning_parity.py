"""Shows whether the arms of a sweep learn the same: final accuracies with their spread, and a comparison of loss curves.

    python -m experiments.train -m repeat=1,2,3 loader=native,dali
    python benchmarks/learning_parity.py

Reads the newest finished sweep of the store. Two curves are within each other's spread at a step if the ranges of their
repeats overlap there.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

ROOT = Path(__file__).resolve().parents[1]


def newest_sweep(client: MlflowClient, experiment_name: str) -> dict[str, list[Run]]:
    """The finished children of the newest sweep, by arm."""
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        raise SystemExit(f"there is no experiment {experiment_name}")
    parents = client.search_runs(
        [experiment.experiment_id], "tags.sweep = 'parent' and attributes.status = 'FINISHED'", max_results=1
    )
    if not parents:
        raise SystemExit("there is no finished sweep; run the first command of --help")
    query = f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'"
    arms: dict[str, list[Run]] = defaultdict(list)
    for run in client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]):
        arms[run.data.tags["arm"]].append(run)
    return arms


def curve(client: MlflowClient, run: Run) -> dict[int, float]:
    """Training loss by step."""
    from loaderlab.metrics import TRAIN_LOSS

    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, TRAIN_LOSS)}


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--store", help="URI of the store (default: this project's)")
    parser.add_argument("--experiment", default="loaderlab", help="MLflow experiment of the sweep")
    chosen = parser.parse_args(arguments)

    from mlflow.tracking import MlflowClient

    from loaderlab import metrics
    from loaderlab.config import TrackingConfig
    from loaderlab.tracking.uri import store_uri

    client = MlflowClient(chosen.store or store_uri(TrackingConfig(), ROOT))
    arms = newest_sweep(client, chosen.experiment)
    print(
        "| arm | n | validation accuracy, mean | min to max | samples/s, median | min to max |\n|---|---:|---:|---:|---:|---:|"
    )
    for arm, runs in arms.items():
        accuracy = [run.data.metrics[metrics.VAL_ACCURACY] for run in runs]
        rate = [run.data.metrics[metrics.RATE] for run in runs]
        print(
            f"| {arm} | {len(runs)} | {statistics.mean(accuracy):.4f} | {min(accuracy):.4f} to {max(accuracy):.4f} "
            f"| {statistics.median(rate):,.0f} | {min(rate):,.0f} to {max(rate):,.0f} |"
        )
    curves = {arm: [curve(client, run) for run in runs] for arm, runs in arms.items()}
    for left, right in itertools.combinations(curves, 2):
        steps = sorted(set.intersection(*(set(points) for points in curves[left] + curves[right])))
        overlapping = 0
        for step in steps:
            losses, others = ([points[step] for points in curves[arm]] for arm in (left, right))
            overlapping += max(min(losses), min(others)) <= min(max(losses), max(others))
        print(f"\nloss of {left} and {right}: within each other's spread at {overlapping} of {len(steps)} points")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
