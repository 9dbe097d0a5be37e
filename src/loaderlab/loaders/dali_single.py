"""DALI decodes single images: to name the samples that it cannot decode, and to see which processor decodes JPEGs."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from loaderlab.data.spec import UINT8, DataError, EncodedImages
from loaderlab.loaders import dali_graph, dali_guard
from loaderlab.loaders.decode import decoder, read_image, why_unreadable
from loaderlab.loaders.header import header_accepted
from loaderlab.system import causes

MIXED = "loader.decode=mixed"
COPIES = 4  # so that the GPU's JPEG engine decodes some of them and its other cores the rest


@dataclass(frozen=True)
class DecoderChoice:
    """The decoder of one run. ``decode``: cpu, or mixed on the GPU ``device_id``."""

    decode: str
    hw_decoder_load: float
    device_id: int | None

    def pipeline(self, num_images: int) -> Pipeline:
        """A pipeline that decodes so many images per batch, from its input ``encoded``."""
        pipeline = Pipeline(
            batch_size=num_images,
            num_threads=1,
            device_id=self.device_id if self.decode == "mixed" else None,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )
        options = dali_graph.decoder_options(self.decode, self.hw_decoder_load)
        with pipeline:
            pipeline.set_outputs(fn.decoders.image(fn.external_source(name="encoded", batch=True), **options))
        return dali_graph.build(pipeline)


@dataclass(frozen=True)
class JpegDecoding:
    """Which processor decodes JPEGs if ``loader.decode=mixed``.

    Attributes:
        processor: gpu, cpu or unknown.
        mean_levels: mean difference from the CPU's decoder on `noise_jpeg`, of 255 levels, of the copy that differs most; None
            if it is unknown.
        note: what a user must know about it; empty if the GPU decodes.
    """

    processor: str
    mean_levels: float | None = None
    note: str = ""


@functools.cache
def jpeg_decoding(mixed: DecoderChoice) -> JpegDecoding:
    """Decodes `noise_jpeg` with the CPU's decoder and with mixed decoding, once in a process.

    Where nvJPEG does not work, mixed decoding uses the CPU's decoder and does not say so. The pixels are then the same, bit by
    bit.
    """
    encoded = noise_jpeg()
    try:
        on_cpu, on_gpu = decoded(encoded, replace(mixed, decode="cpu")), decoded(encoded, mixed)
    except RuntimeError as error:
        return JpegDecoding("unknown", note=f"{MIXED}: it is not known which processor decodes: {reason(error)}")
    if np.array_equal(on_cpu, on_gpu):
        note = f"{MIXED}: the CPU decodes the JPEGs, not the GPU: a test image has the pixels of the CPU's decoder, bit by bit"
        return JpegDecoding("cpu", 0.0, note)
    differences = np.abs(on_cpu.astype(np.int16) - on_gpu).mean((1, 2, 3))
    return JpegDecoding("gpu", round(float(differences.max()), 3))


def noise_jpeg() -> UINT8:
    """An encoded image of noise, 256 x 192, with chroma at half the resolution (4:2:0)."""
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=90, subsampling=2)
    return np.frombuffer(file.getvalue(), np.uint8)


def decoded(encoded: UINT8, choice: DecoderChoice) -> UINT8:
    """The pixels of `COPIES` decodings of one image, (N, H, W, 3)."""
    pipeline = choice.pipeline(COPIES)
    pipeline.feed_input("encoded", [encoded] * COPIES)
    (images,) = pipeline.run()
    return np.array((images.as_cpu() if choice.decode == "mixed" else images).as_array())


def undecodable(source: EncodedImages, ids: Sequence[int], max_pixels: int, choice: DecoderChoice) -> dict[int, str]:
    """The samples that DALI cannot decode, by id, with the reason. DALI does not say which sample of a batch failed, so they
    are decoded one by one, with the decoder of the run: another one may accept what this one refuses."""
    pillow = decoder("pillow")  # its error messages are clearer
    reasons: dict[int, str] = {}
    one: Pipeline | None = None
    for index in ids:
        try:
            data = source.read(index)
            if header_accepted(data, max_pixels):
                one = one or choice.pipeline(1)
                one.feed_input("encoded", [dali_guard.with_one_orientation(data)])
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


def reason(error: Exception) -> str:
    """The line of DALI's message that says what went wrong, without the frames of the pipeline's definition."""
    lines = [line.strip() for line in causes.safe_text(error).splitlines() if line.strip()]
    for marker in ("Error when executing", "nvImageCodec failure", "Failed to", "Could not", "Assert"):
        for line in lines:
            if marker in line:
                return causes.with_cause(error, line.split("]: ")[-1])
    return causes.reason(error)
