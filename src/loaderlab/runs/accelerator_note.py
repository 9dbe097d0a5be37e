"""Warnings about an emulated accelerator: its speed is not for these samples, or no number of workers can feed it."""

from __future__ import annotations

from loaderlab.config import AcceleratorConfig
from loaderlab.config.accelerator import IMAGE_FILES, VECTORS
from loaderlab.data.spec import DataSpec, EncodedImages, ImageArrays, Source, Vectors
from loaderlab.data.stored_size import mean_stored_bytes
from loaderlab.diagnosis.evidence import Setup
from loaderlab.diagnosis.feed_limit import feed_limit

MAX_FACTOR = 1.5  # between the sizes of samples, without a warning
KINDS = {IMAGE_FILES: "image files", VECTORS: "vectors"}


def accelerator_note(accelerator: AcceleratorConfig, spec: DataSpec) -> str | None:
    """The warning, or None if the samples fit or if nothing is known about them.

    Args:
        accelerator: an emulated one.
        spec: of the run's samples; sizes are those of the training samples.
    """
    kind, stored_bytes = _kind(spec.train.source), mean_stored_bytes(spec.train.source)
    differences = []
    if kind is not None and accelerator.made_for not in ("any", kind):
        differences.append(f"for {KINDS[accelerator.made_for]}, and data={spec.name} has {KINDS.get(kind, kind)}")
    if stored_bytes is not None and (sizes := _size_difference(accelerator, stored_bytes / 1e3)):
        differences.append(sizes)
    if not differences:
        return None
    return f"accelerator={accelerator.name}: its speed is {'; '.join(differences)}. The emulated speed may not fit these samples"


def limit_note(setup: Setup) -> str | None:
    """The warning that no number of workers can feed the emulated accelerator; None if one could, or on a real device."""
    speed = setup.accelerator
    limit = None if speed is None or setup.loader.loads_nothing else feed_limit(speed, setup)
    if limit is None:
        return None
    most = f"at most {limit.share:.2f} of the accelerator can be used"
    return f"with any number of workers {most}: {limit.reason}. {limit.remedy}"


def _size_difference(accelerator: AcceleratorConfig, stored_kb: float) -> str:
    """How much the mean sizes differ; empty if they are similar, or if one of them is not known."""
    if accelerator.sample_kb is None or stored_kb <= 0:
        return ""
    factor = stored_kb / accelerator.sample_kb
    if 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        return ""
    difference = f"{factor:.1f} times as large" if factor > 1 else f"{1 / factor:.1f} times smaller"
    return f"for stored samples of {accelerator.sample_kb:.4g} kB, and these have {stored_kb:.3g} kB on average, {difference}"


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
