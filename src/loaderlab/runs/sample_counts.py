"""The numbers of samples for the record; for an iterable dataset the actual number, not its ``__len__``."""

from __future__ import annotations

from loaderlab.data.spec import DataSpec, Split
from loaderlab.loaders.contract import Loader
from loaderlab.system.terminal import Terminal
from loaderlab.training.loop import Parts


def samples_text(spec: DataSpec, parts: Parts) -> str:
    """``18 training, 5 validation samples``, or ``unknown`` instead of a number."""
    val = _number(spec.val, parts.val_loader) if spec.val is not None else "0"
    return f"{_number(spec.train, parts.loader)} training, {val} validation samples"


def data_fact(spec: DataSpec, parts: Parts) -> str:
    """One line about the dataset: its name, samples, classes and sample shape."""
    if spec.whole_batches:
        return f"{spec.name}: {samples_text(spec, parts)}, batches of its own"
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
    """Warns once about each split whose number of samples differs from its ``__len__``."""

    def __init__(self, spec: DataSpec, parts: Parts, terminal: Terminal) -> None:
        self._terminal = terminal
        self._unwarned = {"training": (spec.train, parts.loader)}
        if spec.val is not None and parts.val_loader is not None:
            self._unwarned["validation"] = (spec.val, parts.val_loader)

    def report(self) -> None:
        """Warns about the splits counted so far. Call it at the end of each epoch and of the run."""
        for name, (split, loader) in list(self._unwarned.items()):
            counted, claimed = loader.counted, split.num_samples
            if counted is None or claimed is None or not split.num_claimed:
                continue
            if counted.num_samples > claimed or (counted.whole and counted.num_samples != claimed):
                at_least = "" if counted.whole else "at least "
                users = "the record and the learning-rate schedule use" if name == "training" else "the record uses"
                self._terminal.warn(
                    f"data: the {name} dataset gave {at_least}{counted.num_samples} samples in an epoch, but its __len__ says "
                    f"{claimed}: {users} the actual number"
                )
                del self._unwarned[name]
