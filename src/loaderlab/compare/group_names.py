"""The names of a comparison's groups: how the work of each differs from that of the others."""

from __future__ import annotations

from collections import Counter

from loaderlab.compare.arms import Comparison, Group, short
from loaderlab.compare.capacity import accelerator, requested_rate
from loaderlab.compare.grouping import DEVICE


def group_name(comparison: Comparison, group: Group) -> str:
    """``emulated resnet50_a100 (920 samples/s), batch_size 64``; empty for the only group.

    An emulated accelerator is named by its preset and its speed, or by its whole description if two groups would have one name.
    """
    names = {id(entry): _name(entry, comparison) for entry in comparison.groups}
    is_unique = Counter(names.values())[names[id(group)]] == 1
    return names[id(group)] if is_unique else _listed(group)


def _name(group: Group, comparison: Comparison) -> str:
    if not comparison.is_emulated or DEVICE not in group.work:
        return _listed(group)
    arm = next((entry for entry in group.arms if requested_rate(entry) is not None), group.arms[0])
    others = [f"{short(name)} {value}" for name, value in group.work.items() if name != DEVICE]
    return ", ".join([accelerator(arm), *others])


def _listed(group: Group) -> str:
    return ", ".join(f"{short(name)} {value}" for name, value in group.work.items())
