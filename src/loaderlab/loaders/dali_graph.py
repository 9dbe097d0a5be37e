"""The graph of the DALI pipeline, from paths or bytes to images."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from loaderlab.config import DaliLoader, refuse
from loaderlab.data.spec import EncodedImages, ImageFiles, Split
from loaderlab.loaders.contract import LoaderError
from loaderlab.loaders.decode import CROP_ATTEMPTS
from loaderlab.system import causes
from loaderlab.system.extras import how_to_install

try:
    from nvidia.dali import backend, fn, pipeline_def, types
    from nvidia.dali.pipeline import Pipeline

    from loaderlab.loaders import dali_guard
except ImportError as error:
    why = f"NVIDIA DALI is not installed here ({causes.reason(error)}). It exists for Linux only"
    install = how_to_install("dali") if sys.platform == "linux" else "loader=native"
    raise refuse("loader", "dali", why, install, is_example=False, error=LoaderError) from error

NO_RUNTIME = (
    r"nvidia-dali-cuda\d+ is no longer shipped with CUDA runtime\. You need to install it separately\. (cuFFT|NPP) is "
)
FILTERS = {"interp_type": types.INTERP_LINEAR, "antialias": True}
TIFF_ENDINGS = {".tif", ".tiff"}
WHOLE = {"subpixel_scale": False, **FILTERS}  # whole sizes, as in torchvision; `random_resized_crop` always does this


def compose(
    split: Split,
    config: DaliLoader,
    decode: str,
    feed: Callable[[], tuple[Any, ...]],
    *,
    batch_size: int,
    num_threads: int,
    device_id: int | None,
    seed: int,
    exact: bool,
) -> Pipeline:
    """A pipeline whose batches are (inputs, labels, ids, within), not yet built. Images are (N, size, size, C); other inputs are
    unchanged. ``within`` (uint8) says for each sample whether it was decoded or refused for its header. Without ``exact``, the
    pipeline fails instead, and it also fails for rare images with a good header: see `dali_guard`.

    Needs no GPU, also if ``device_id`` is given; `build` does.
    """

    @pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
    def graph() -> tuple[Any, ...]:
        first, labels, ids = fn.external_source(source=feed, num_outputs=3, batch=True)
        inputs, within = first, np.uint8(1)
        if isinstance(split.source, EncodedImages):
            encoded = _read(first, split.source, split.on_error.max_pixels)
            if split.on_error.skip:
                encoded = _with_one_orientation(encoded)
            if exact:
                inputs, within = _decoded_if_plausible(encoded, split, config, decode)
            else:
                encoded = dali_guard.refuse_implausible(encoded, split.on_error.max_pixels)
                inputs = _decoded(encoded, split, config, decode)
            inputs = _finished(inputs, split, cropped=_crops(split, decode))
        elif split.transform is not None:
            inputs = fn.reinterpret(first, layout="HWC")
            inputs = _finished(inputs.gpu() if device_id is not None else inputs, split, cropped=False)
        return (inputs.gpu(), labels.gpu(), ids, within) if device_id is not None else (inputs, labels, ids, within)

    return graph(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=device_id,
        seed=seed,
        prefetch_queue_depth=config.prefetch_queue_depth,
        exec_dynamic=True,  # its outputs own their memory, so torch may keep them
    )


def build(pipeline: Pipeline) -> Pipeline:
    """The same pipeline with its operators, threads and memory.

    Ignores DALI's warnings that it cannot load cuFFT and NPP (`nvidia.dali.backend.check_cuda_runtime`): a wheel for CUDA 12
    does not find CUDA 13's libraries, whose names have other numbers, and no operator of these graphs uses them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_RUNTIME, module=r"nvidia\.dali\.backend$")
        pipeline.build()
    return pipeline


def _read(first: Any, source: EncodedImages, max_pixels: int) -> Any:
    """The bytes of files, or the bytes that the feed has read."""
    if not isinstance(source, ImageFiles):
        return first
    # not mapped: if a mapped file is cut while it is read, the process ends (SIGBUS), and mapping small files takes longer
    encoded = fn.io.file.read(first, dont_use_mmap=True)
    if source.paths.has_any(TIFF_ENDINGS):
        encoded = fn.python_function(encoded, function=functools.partial(dali_guard.drop_unscaled_tiff, max_pixels))
    return encoded


def _with_one_orientation(encoded: Any) -> Any:
    if encoded[21] != dali_guard.DQT:  # for each sample: the pipeline splits its batch here
        encoded = fn.python_function(encoded, function=dali_guard.with_one_orientation)
    return encoded


def _decoded(encoded: Any, split: Split, config: DaliLoader, decode: str) -> Any:
    """Full images, or random crops if ``_crops``."""
    decoding = decoder_options(decode, config.hw_decoder_load)
    if _crops(split, decode):
        return fn.decoders.image_random_crop(encoded, **decoding, **_window(split))  # decodes only the crop
    return fn.decoders.image(encoded, **decoding)


def _decoded_if_plausible(encoded: Any, split: Split, config: DaliLoader, decode: str) -> tuple[Any, Any]:
    """The images, and the flag ``within``. An image that is refused for its header is black."""
    within = dali_guard.is_plausible(encoded, split.on_error.max_pixels)
    if within:
        images = _decoded(encoded, split, config, decode)
    else:
        images = types.Constant(np.zeros((8, 8, 3), np.uint8), device="gpu" if decode == "mixed" else "cpu")
    return fn.reinterpret(images, layout="HWC"), fn.cast(within, dtype=types.UINT8)


def decoder_options(decode: str, hw_decoder_load: float) -> dict[str, Any]:
    """The arguments of the decoder. ``decode``: cpu or mixed.

    Without ``jpeg_fancy_upsampling``, mixed decoding repeats each chroma value, and the CPU's decoder interpolates them.
    """
    options: dict[str, Any] = {"device": decode, "output_type": types.RGB}
    if decode == "mixed":
        options |= {"hw_decoder_load": hw_decoder_load, "jpeg_fancy_upsampling": True}
    return options


def _crops(split: Split, decode: str) -> bool:
    """Whether only the random crop is decoded.

    Not on a GPU: nvImageCodec 0.9, which DALI requires from version 2.3 on, crashes there on some GPUs and fails on others
    (NVIDIA/nvImageCodec issue 55).
    """
    assert split.transform is not None
    return split.transform.random_crop and decode != "mixed"


def _window(split: Split) -> dict[str, Any]:
    spec = split.transform
    assert spec is not None
    return {"random_area": list(spec.scale), "random_aspect_ratio": list(spec.ratio), "num_attempts": CROP_ATTEMPTS}


def _finished(images: Any, split: Split, *, cropped: bool) -> Any:
    """Images after crop (unless already ``cropped``), resize, flip and normalisation."""
    spec, normalization = split.transform, split.normalization
    assert spec is not None
    assert normalization is not None
    if not spec.random_crop:
        images = fn.resize(images, resize_shorter=spec.resize, **WHOLE)
        images = fn.crop(images, crop=[spec.size, spec.size])
    elif cropped and spec.flip > 0 and normalization.on_device:
        # a negative width mirrors the image, which saves a second pass over its pixels
        width = fn.random.choice([-float(spec.size), float(spec.size)], p=[spec.flip, 1 - spec.flip])
        return fn.resize(images, resize_x=width, resize_y=spec.size, **WHOLE)
    elif cropped:
        images = fn.resize(images, size=[spec.size, spec.size], **WHOLE)
    else:
        images = fn.random_resized_crop(images, size=[spec.size, spec.size], **_window(split), **FILTERS)
    flip = fn.random.coin_flip(probability=spec.flip) if spec.flip > 0 else 0
    if not normalization.on_device:
        return fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="HWC",
            mirror=flip,
            mean=[255 * value for value in normalization.mean],
            std=[255 * value for value in normalization.std],
        )
    return fn.flip(images, horizontal=flip) if spec.flip > 0 else images


def release_memory() -> None:
    """Returns the memory that DALI's pools keep after their pipelines are gone to the system and the device."""
    backend.ReleaseUnusedMemory()
