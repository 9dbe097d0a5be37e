"""The numbers of samples for the record: of an iterable dataset what it has given, whatever its ``__len__`` says."""

from __future__ import annotations

from loaderlab.data.spec import DataSpec, Split
from loaderlab.loaders.contract import Loader
from loaderlab.system.terminal import Terminal
from loaderlab.training.loop import Parts


def samples_text(spec: DataSpec, parts: Parts) -> str:
    """``18 training, 5 validation samples``, as far as is known."""
    val = _number(spec.val, parts.val_loader) if spec.val is not None else "0"
    return f"{_number(spec.train, parts.loader)} training, {val} validation samples"


def data_fact(spec: DataSpec, parts: Parts) -> str:
    """The samples in one line."""
    return f"{spec.name}: {samples_text(spec, parts)}, {len(spec.classes)} classes, {'x'.join(map(str, spec.sample_shape))}"


def _number(split: Split, loader: Loader | None) -> str:
    claimed, counted = split.num_samples, loader.counted if loader is not None else None
    if not split.num_claimed:
        return str(claimed)
    if counted is not None and counted.whole:
        return str(counted.num_samples)
    if counted is not None and counted.num_samples > (claimed or 0):
        return f"at least {counted.num_samples}"
    return "unknown" if claimed is None else f"{claimed} (by its __len__)"


class FalseLengths:
    """Warns once of each split that gives another number of samples than its ``__len__`` says."""

    def __init__(self, spec: DataSpec, parts: Parts, terminal: Terminal) -> None:
        self._terminal = terminal
        self._unwarned = {"training": (spec.train, parts.loader)}
        if spec.val is not None and parts.val_loader is not None:
            self._unwarned["validation"] = (spec.val, parts.val_loader)

    def report(self) -> None:
        """To be called at the end of an epoch and of the run."""
        for name, (split, loader) in list(self._unwarned.items()):
            counted, claimed = loader.counted, split.num_samples
            if counted is None or claimed is None or not split.num_claimed:
                continue
            if counted.num_samples > claimed or (counted.whole and counted.num_samples != claimed):
                at_least = "" if counted.whole else "at least "
                schedule = ", and the learning rate's schedule," if name == "training" else ""
                self._terminal.warn(
                    f"data: the {name} dataset gave {at_least}{counted.num_samples} samples in an epoch, and its __len__ says "
                    f"{claimed}: the record{schedule} goes by what it gave"
                )
                del self._unwarned[name]
