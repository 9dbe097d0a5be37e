"""What the user asked for and the tuner cannot try, because it has no effect on this data or device. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loaderlab.config import AUTO, TuneConfig
from loaderlab.tuning.candidate import DALI, RESIDENT, SPDL, Branch

OF_BACKEND: Mapping[str, str] = {  # what the data needs, for backends that cannot serve all of it
    SPDL: "it needs a dataset with a length and an index, and this one is iterable",
    DALI: "it needs a dataset with a length and an index, and this one is iterable",
    RESIDENT: "it needs images, or vectors without work for each sample",
}
OF_CHANGE: Mapping[str, tuple[str, str]] = {  # the setting of each entry of tune.also, and what it needs
    "decoder": ("loader.decoder", "it needs encoded images, and a loader other than dali"),
    "decode": ("loader.decode", "it needs encoded images, the loader dali, and a GPU that decodes them"),
    "normalize_on": ("data.transform.normalize_on", "it needs data that is normalised"),
    "in_order": ("loader.in_order", "it needs the loader native"),
}


def without_effect(tune: TuneConfig, branches: Sequence[Branch]) -> tuple[str, ...]:
    """One sentence about each loader and each change that was requested and is no branch.

    Args:
        branches: those that may be tried.
    """
    backends = {branch.backend for branch in branches}
    settings = {setting for branch in branches for setting, _ in branch.also}
    requested = () if tune.backends == AUTO else tune.backends
    notes = [
        f"the entry {name} of tune.backends has no effect with this data: {OF_BACKEND[name]}"
        for name in requested
        if name not in backends
    ]
    for name in tune.also:
        setting, needs = OF_CHANGE[name]
        if setting not in settings:
            notes.append(f"the entry {name} of tune.also has no effect here: {needs}")
    return tuple(notes)
