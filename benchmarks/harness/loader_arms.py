"""Arms that read the same photos: loaderlab's loaders, those of their peers, and the decoders alone."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from benchmarks.harness.peers import BATCH, LIMITS, PEERS, SAMPLES, SIZE, missing_for_spdl
from benchmarks.harness.turns import Arm, Served, Turns, median_rate, paired, shown
from loaderlab import config, data, loaders
from loaderlab.compare import stats
from loaderlab.data.spec import INT64
from loaderlab.device.resolve import resolve_device
from loaderlab.loaders.contract import EpochPlan

NUM_FILES, NUM_CLASSES = 400, 10
# our arm, the arms whose best it is compared with, and what the ratio or an end of its confidence interval must reach
TARGETS = [
    ("native", ["recipe"], "value", 1.7),
    ("native", ["torchcodec plain"], "value", 1.05),
    ("native", list(PEERS), "low", 1.05),
    ("native", ["spdl"], "high", 1.0),  # not behind
    ("dali", ["bare DALI"], "low", 0.97),
    ("spdl", ["bare SPDL", "bare SPDL + torchcodec"], "value", 0.97),
]


class RepeatedPlan(EpochPlan):
    """Repeats a small set, so that no epoch ends during a run."""

    def ids(self, epoch: int) -> INT64:
        return super().ids(epoch) % NUM_FILES


def photos(size: str, root: str | None = None) -> config.PhotosData:
    """The settings of photos of one size, like ``500x375``; without ``root`` they are in the temporary folder."""
    width, height = map(int, size.split("x"))
    return config.PhotosData(
        root=root or f"{tempfile.gettempdir()}/loaderlab_photos",
        num_files=NUM_FILES,
        num_classes=NUM_CLASSES,
        width_px=width,
        height_px=height,
        transform=config.TransformConfig(image_size=SIZE),
    )


def ours(files: config.PhotosData, settings: config.LoaderConfig, device: str = "cpu") -> Served:
    """One of loaderlab's loaders; a batch counts when it is on the device."""
    split = data.build(files, lambda *_: None).train
    plan = RepeatedPlan(SAMPLES, BATCH, shuffle=True, drop_last=True)
    loader = loaders.build(settings, split, plan, resolve_device(device))
    batches = (len(loader.transfer(batch)) for epoch in itertools.count() for batch in loader.epoch(epoch))
    return Served(batches, loader.lookahead, loader.parallel)


def all_arms(files: config.PhotosData, folder: Path, workers: int) -> list[Arm]:
    """The peers that can run here, loaderlab's loaders and the decoders alone."""
    peers = {name: peer for name, peer in PEERS.items() if not (name == "bare SPDL" and missing_for_spdl())}
    arms = [Arm(name, build, (folder, workers), label) for name, (build, label) in peers.items()]
    own_loaders = {
        "native": (config.NativeLoader(num_workers=workers), f"loader=native loader.num_workers={workers}"),
        "native 0 workers": (config.NativeLoader(num_workers=0), "loader=native loader.num_workers=0: one core"),
        "dali": (config.DaliLoader(num_threads=workers), f"loader=dali loader.num_threads={workers}"),
        "spdl": (config.SpdlLoader(num_threads=workers), f"loader=spdl loader.num_threads={workers}"),
    }
    arms += [Arm(name, ours, (files, settings), label) for name, (settings, label) in own_loaders.items()]
    return arms + [Arm(name, build, (folder, workers), label) for name, (build, label) in LIMITS.items()]


def target_lines(turns: Turns) -> list[str]:
    """One line for each target whose arms have run."""
    lines = []
    for name, others, attribute, target in TARGETS:
        others = [other for other in others if other in turns]
        if name not in turns or not others:
            continue
        best = max(others, key=lambda other: median_rate(turns[other]))
        # the best of k is chosen from the same repeats: a wider interval corrects for that
        ratio = paired(turns, name, best, 1 - (1 - stats.CONFIDENCE) / max(1, len(others) - 1))
        measured = getattr(ratio, attribute)
        outcome = "no verdict" if measured is None else "reached" if measured >= target else "NOT reached"
        margin = "" if measured is None else f" by {100 * (measured / target - 1):+.1f} %"
        kind = {"value": "ratio", "low": "lower end", "high": "upper end"}[attribute]
        lines.append(f"{name} / {best}: {shown(ratio)}; target, {kind} >= {target}: {outcome}{margin}")
    return lines
