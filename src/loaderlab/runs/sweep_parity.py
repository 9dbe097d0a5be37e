"""Checks before a sweep that its loaders do the same work, and keeps the results with the parent run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from loaderlab.config import TrainConfig
from loaderlab.parity.status import NOT_CHECKED, PARITY, SAME_WORK
from loaderlab.runs.compared_loaders import ComparedLoader, compared_loaders
from loaderlab.runs.sweep_record import save_file
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun

PARITY_FILE = "parity.json"
Checked = Callable[[Sequence[ComparedLoader]], dict[str, dict[str, Any]]]


def check_loaders(
    configs: Sequence[TrainConfig], parent: TrackedRun, store: Store, terminal: Terminal, checked: Checked
) -> dict[str, str]:
    """The parity tag of each loader, by `loaderlab.runs.compared_loaders.loader_key`: whether it does the same work as the
    others. Results of an earlier command are reused.

    Args:
        checked: the result of each loader, by its key, from another process.
    """
    if not configs[0].sweep.parity or all(config.measure.parity for config in configs):
        return {}
    results: dict[str, dict[str, Any]] = json.loads(store.read(parent.run_id, PARITY_FILE) or "{}")
    loaders = compared_loaders(configs)
    unchecked = {"status": NOT_CHECKED}
    left = [entry for entry in loaders if results.get(entry.key, unchecked)["status"].startswith(NOT_CHECKED)]
    if left:
        terminal.say(f"\nparity: checking that {len(loaders)} loaders do the same work (sweep.parity=false skips this)")
        results |= checked(left)
        save_file(parent, PARITY_FILE, json.dumps(results, indent=1))
        other_results = [
            f"{entry['loader']}: {entry['status']}" for entry in results.values() if entry["status"] != SAME_WORK
        ]
        parent.tags({PARITY: "; ".join(other_results) or SAME_WORK})
    return {key: entry["status"] for key, entry in results.items()}
