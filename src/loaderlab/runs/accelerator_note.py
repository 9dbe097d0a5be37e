"""The warning that a run's samples are not the data that its emulated accelerator's speed is for."""

from __future__ import annotations

from loaderlab.config import AcceleratorConfig
from loaderlab.config.accelerator import IMAGE_FILES, VECTORS
from loaderlab.data.spec import DataSpec, EncodedImages, ImageArrays, Source, Vectors
from loaderlab.data.stored_size import mean_stored_bytes

MAX_FACTOR = 1.5  # between the sizes of samples, without a warning
KINDS = {IMAGE_FILES: "image files", VECTORS: "vectors"}


def accelerator_note(accelerator: AcceleratorConfig, spec: DataSpec) -> str | None:
    """The warning, or None if the samples fit or if nothing is known about them.

    Args:
        accelerator: an emulated one.
        spec: of the run's samples; sizes are those of the training samples.
    """
    kind = _kind(spec.train.source)
    if kind is not None and accelerator.made_for not in ("any", kind):
        return (
            f"accelerator={accelerator.name}: its speed is for {KINDS[accelerator.made_for]}, and data={spec.name} has "
            f"{KINDS.get(kind, kind)}. The emulated speed may not fit these samples"
        )
    stored_bytes = mean_stored_bytes(spec.train.source)
    return None if stored_bytes is None else _note_on_size(accelerator, spec.name, stored_bytes / 1e3)


def _note_on_size(accelerator: AcceleratorConfig, data: str, stored_kb: float) -> str | None:
    if accelerator.sample_kb is None or stored_kb <= 0:
        return None
    factor = stored_kb / accelerator.sample_kb
    if 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        return None
    difference = f"{factor:.1f} times as large" if factor > 1 else f"{1 / factor:.1f} times smaller"
    return (
        f"accelerator={accelerator.name}: its speed is for stored samples of {accelerator.sample_kb:.4g} kB, and those of "
        f"data={data} have {stored_kb:.3g} kB on average: they are {difference}. The emulated speed may not fit these samples"
    )


def _kind(source: Source) -> str | None:
    """The kind of the samples; None for a user's own dataset."""
    match source:
        case EncodedImages():
            return IMAGE_FILES
        case Vectors():
            return VECTORS
        case ImageArrays():
            return "decoded images in memory"
    return None
