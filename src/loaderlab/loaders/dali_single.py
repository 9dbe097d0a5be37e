"""DALI decodes single images: to name the samples that it cannot decode."""

from __future__ import annotations

from collections.abc import Sequence

from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from loaderlab.data.spec import DataError, EncodedImages
from loaderlab.loaders.dali_graph import with_one_orientation
from loaderlab.loaders.decode import decoder, read_image, why_unreadable
from loaderlab.loaders.header import header_accepted
from loaderlab.system import causes


def undecodable(source: EncodedImages, ids: Sequence[int], max_pixels: int) -> dict[int, str]:
    """The samples that DALI cannot decode, by id, with the reason. DALI does not say which sample of a batch failed, so they
    are decoded one by one."""
    pillow = decoder("pillow")  # its error messages are clearer
    reasons: dict[int, str] = {}
    one: Pipeline | None = None
    for index in ids:
        try:
            data = source.read(index)
            if header_accepted(data, max_pixels):
                one = one or _decode_one()
                one.feed_input("encoded", [with_one_orientation(data)])
                one.run()
                continue
            message = "its header"
        except OSError as error:
            message = causes.reason(error)
        except RuntimeError as error:
            one, message = None, reason(error)
        try:
            read_image(source, index, pillow, max_pixels)
        except DataError as error:
            reasons[index] = str(error)
        else:
            reasons[index] = why_unreadable(source, index, RuntimeError(message))
    return reasons


def _decode_one() -> Pipeline:
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(fn.decoders.image(fn.external_source(name="encoded", batch=True), device="cpu"))
    return pipeline


def reason(error: Exception) -> str:
    """The line of DALI's message that says what went wrong, without the frames of the pipeline's definition."""
    lines = [line.strip() for line in causes.safe_text(error).splitlines() if line.strip()]
    for marker in ("Error when executing", "nvImageCodec failure", "Failed to", "Could not", "Assert"):
        for line in lines:
            if marker in line:
                return causes.with_cause(error, line.split("]: ")[-1])
    return causes.reason(error)
