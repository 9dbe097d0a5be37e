"""A candidate as text to type: overrides of a run, or the arguments of a DataLoader. Pure."""

from __future__ import annotations

from loaderlab.tuning.candidate import DALI, NATIVE, RESIDENT, SPDL, Candidate

FIELDS = {  # of a candidate, and the setting of each backend
    NATIVE: {
        "makers": "num_workers",
        "prefetch": "prefetch_factor",
        "pin_memory": "pin_memory",
        "side_stream": "side_stream",
        "persistent": "persistent_workers",
        "start_method": "start_method",
    },
    SPDL: {
        "makers": "num_threads",
        "prefetch": "buffer_size",
        "pin_memory": "pin_memory",
        "side_stream": "side_stream",
    },
    DALI: {"makers": "num_threads", "prefetch": "prefetch_queue_depth"},
    RESIDENT: {},
}
OF_WORKERS = ("prefetch", "persistent", "start_method")  # a native loader without workers refuses them
ARGUMENTS = {"makers": "num_workers", "prefetch": "prefetch_factor", "pin_memory": "pin_memory"} | {
    "persistent": "persistent_workers",
    "start_method": "multiprocessing_context",
}  # of torch.utils.data.DataLoader


def override_of(candidate: Candidate, current: Candidate | None = None) -> str:
    """The overrides that give a run these settings: ``loader=spdl loader.num_threads=2``.

    Args:
        current: the settings of the command to which the overrides are added; None: those of the default loader, native.
    """
    backend = candidate.branch.backend
    was = current.branch.backend if current is not None else NATIVE
    words = [f"loader={backend}"] if backend != was else []
    words += [f"loader.{name}={_text(value)}" for name, value in _values(candidate, FIELDS[backend]).items()]
    words += [f"{name}={value}" for name, value in candidate.branch.also]
    return " ".join(words) or f"loader={backend}"


def keywords(candidate: Candidate) -> dict[str, int | bool | str]:
    """The arguments of a DataLoader with these settings, also for a function that builds a loader."""
    values = _values(candidate, ARGUMENTS)
    if ("loader.in_order", "false") in candidate.branch.also:
        values["in_order"] = False
    return values


def snippet(candidate: Candidate, batch_size: int | None = None) -> str:
    """Python that builds the loader: ``DataLoader(dataset, batch_size=64, num_workers=2)``; empty if no DataLoader has
    these settings (SPDL, DALI, samples on the device).

    Args:
        batch_size: None leaves it out.
    """
    if candidate.branch.backend in (SPDL, DALI, RESIDENT):
        return ""
    given = ", ".join(f"{name}={value!r}" for name, value in keywords(candidate).items())
    if candidate.branch.backend != NATIVE:
        return f"loader({given})"  # a function of the user builds it
    first = "dataset, " if batch_size is None else f"dataset, batch_size={batch_size}, "
    copies = "  # copy on a stream of its own: batch.to(device, non_blocking=True)" if candidate.side_stream else ""
    return f"DataLoader({first}{given}){copies}"


def _values(candidate: Candidate, names: dict[str, str]) -> dict[str, int | bool | str]:
    """The values that are set, by the name of the setting."""
    without_workers = candidate.makers == 0
    return {
        name: value
        for attribute, name in names.items()
        if (value := getattr(candidate, attribute)) is not None and not (without_workers and attribute in OF_WORKERS)
    }


def _text(value: int | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
