"""Compares what the ranks of a job were given: their settings, their software and their samples must be the same."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from loaderlab.config import TrainConfig, UserError, refuse
from loaderlab.data.spec import DataSpec, UserItems
from loaderlab.device.base import Device
from loaderlab.system.ranks import Ranks
from loaderlab.system.versions import versions
from loaderlab.training.rank_group import RankGroup

Facts = dict[str, str]
PLACES = ("launch.", "tracking.", "checkpoint.", "data.root", "data.val_root", "torch_threads")  # may differ by node
UNIMPORTANT = ("mlflow", "hydra-core")
MAX_DIFFERENCES = 5


def check_settings(group: RankGroup, config: TrainConfig) -> None:
    """Checks that every rank has the same settings and software.

    Raises:
        UserError: two ranks differ; every rank raises the same error.
    """
    slowdown = config.accelerator.rank_slowdown
    if slowdown and len(slowdown) != group.ranks.world_size:
        raise refuse(
            "accelerator.rank_slowdown",
            slowdown,
            f"has {len(slowdown)} factors, and there are {group.ranks.world_size} ranks",
            f"'accelerator.rank_slowdown=[{','.join(['1'] * (group.ranks.world_size - 1))},1.5]'",
        )
    facts = {name: str(value) for name, value in config.recorded() if not name.startswith(PLACES)}
    facts["python"] = platform.python_version()
    facts |= {f"version of {name}": text for name, text in versions().items() if name not in UNIMPORTANT}
    _check(group, facts)


def check_device(group: RankGroup, device: Device) -> None:
    """Checks that every rank trains on the same kind of device: with ``device=auto``, a node may have no GPU.

    Raises:
        UserError: two ranks differ; every rank raises the same error.
    """
    _check(group, {"kind of device": device.kind})


def check_samples(group: RankGroup, spec: DataSpec) -> None:
    """Checks that every rank has the same samples.

    Raises:
        UserError: two ranks differ, or a stream is not divided among them; every rank raises the same error.
    """
    _check(
        group,
        {
            "digest of the samples": spec.digest,
            "number of training samples": str(spec.train.num_samples),
            "number of validation samples": str(None if spec.val is None else spec.val.num_samples),
            "shape of a sample": str(spec.sample_shape),
            "classes": ", ".join(spec.classes[:MAX_DIFFERENCES]) + f" ({len(spec.classes)})",
        },
    )
    world_size, source = group.ranks.world_size, spec.train.source
    if isinstance(source, UserItems) and source.iterable and not source.sharded and world_size > 1:
        raise refuse(
            "data.sharded",
            "false",
            f"each of {world_size} ranks would train on all samples of the stream",
            "data.sharded=true, if the dataset divides itself by RANK and WORLD_SIZE of the environment and by its workers",
            is_example=False,
        )


def _check(group: RankGroup, facts: Facts) -> None:
    if text := difference(group.all_gather((group.ranks, facts))):
        raise UserError(text)


def difference(reported: Sequence[tuple[Ranks, Facts]]) -> str:
    """What differs between the first rank and another, for the first rank that differs; empty if nothing does.

    >>> difference([(Ranks(0, 2, node="a"), {"seed": "1"}), (Ranks(1, 2, node="b"), {"seed": "2"})])
    'the ranks differ: seed is 2 on rank 1 (node b) and 1 on rank 0 (node a)'
    """
    first, expected = reported[0]
    for ranks, facts in reported[1:]:
        names = [name for name in dict.fromkeys([*expected, *facts]) if expected.get(name) != facts.get(name)]
        if names:
            parts = [
                f"{name} is {facts.get(name, 'missing')} on {ranks} and {expected.get(name, 'missing')} on {first}"
                for name in names[:MAX_DIFFERENCES]
            ]
            more = f"; and {len(names) - MAX_DIFFERENCES} more" if len(names) > MAX_DIFFERENCES else ""
            return f"the ranks differ: {'; '.join(parts)}{more}"
    return ""
