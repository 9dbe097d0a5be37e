"""NVIDIA DALI, driven by the plan: an external source gives paths and ids, the pipeline reads, decodes and crops.

DALI's own file reader is not used: its shuffling covers a buffer only and its epochs are not exact. Its interpreter
of the plan here is `_Feed`, which runs in the training process and costs microseconds for files.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack

from loaderlab.config import AUTO, DaliLoader
from loaderlab.data.imagefolder import EXTENSIONS
from loaderlab.data.spec import INT64, DataError, ImageArrays, ImageFiles, Split, UserItems, Vectors
from loaderlab.loaders.contract import Batch, EpochPlan, Loader, LoaderError, to_device
from loaderlab.loaders.decode import CROP_ATTEMPTS, decoder, why_unreadable
from loaderlab.loaders.fetch import Request as ItemRequest
from loaderlab.loaders.fetch import UserFetcher, check_formats, vectors_of
from loaderlab.machine import available_cores

try:
    import nvidia.dali.backend as dali_backend
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import Pipeline
except ImportError as error:
    raise LoaderError(
        f"loader=dali: NVIDIA DALI is not installed here ({error}). It exists for Linux only; "
        + ("install nvidia-dali-cuda120" if sys.platform == "linux" else f"on {sys.platform} type loader=native")
    ) from error

READS = EXTENSIONS - {".avif", ".gif"}
MAX_AUTO_THREADS = 16


class _Feed:
    """The external source: the arrays of one batch of the plan a call, StopIteration at an epoch's end."""

    def __init__(self, split: Split, plan: EpochPlan) -> None:
        self._source, self._plan = split.source, plan
        self._batches: Iterator[INT64] = iter(())
        self._user = UserFetcher(split.source, batched=True) if isinstance(split.source, UserItems) else None
        self.fed: deque[INT64] = deque()  # handed to the pipeline and not yet out of it

    def start(self, epoch: int) -> None:
        self._batches = iter(self._plan.batches(epoch))
        self.fed.clear()

    def __call__(self) -> tuple[Any, ...]:
        ids = next(self._batches)
        self.fed.append(ids)
        return self._payload(ids)

    def _payload(self, ids: INT64) -> tuple[Any, ...]:
        match self._source:
            case ImageFiles(paths=paths, labels=labels):
                return [np.frombuffer(paths.encoded(i), np.uint8) for i in ids.tolist()], labels[ids], ids
            case ImageArrays(images=images, labels=labels):
                return images[ids], labels[ids], ids
            case Vectors(labels=labels):
                return vectors_of(self._source, ids), labels[ids], ids
            case UserItems():
                assert self._user is not None
                batch = self._user.build(ItemRequest(ids, 0, 0, 0))
                return batch.inputs.numpy(), batch.targets.numpy(), ids


class Dali(Loader):
    """The DALI backend. See `Loader` for the contract.

    Raises:
        LoaderError: an iterable dataset, a file that DALI does not read, or ``mixed`` decoding without a GPU.
    """

    def __init__(self, config: DaliLoader, split: Split, plan: EpochPlan, device: torch.device) -> None:
        self._split, self._plan, self._device, self._config = split, plan, device, config
        on_gpu = device.type == "cuda"
        if not on_gpu and (why := config.needs_gpu()):
            raise LoaderError(why)
        source = split.source
        if isinstance(source, UserItems) and source.iterable:
            raise LoaderError(
                "loader=dali: an iterable dataset has no ids that DALI could ask for. Type: loader=native"
            )
        if isinstance(source, UserItems):
            self._refuse_odd_items(source)
        if isinstance(source, ImageFiles):
            check_formats(source, READS, "loader=dali", "Type: loader=native, with loader.decoder=pillow if need be")
        cores = available_cores()
        auto_threads = min(MAX_AUTO_THREADS, cores if on_gpu else max(1, cores // 2))
        self._threads = auto_threads if config.num_threads == AUTO else int(config.num_threads)
        decode = ("mixed" if on_gpu else "cpu") if config.decode == AUTO else config.decode
        self._decode = decode if isinstance(source, ImageFiles) else "cpu"
        self.other_decoder = self._decode == "mixed"
        self.lookahead = config.prefetch_queue_depth
        self.busy_cores = self._threads
        self.settings = {
            "num_threads": self._threads,
            "decode": self._decode,
            "prefetch_queue_depth": config.prefetch_queue_depth,
        }
        self._feed = _Feed(split, plan)
        self._pipeline: Pipeline | None = None
        self._clean = True  # nothing of a former epoch is left inside the pipeline

    @staticmethod
    def _refuse_odd_items(source: UserItems) -> None:
        batch = UserFetcher(source, batched=True).build(ItemRequest(np.zeros(1, np.int64), 0, 0, 0))
        for name, tensor in (("inputs", batch.inputs), ("targets", batch.targets)):
            try:
                tensor.numpy()
            except TypeError as error:
                raise LoaderError(
                    f"loader=dali: takes the {name} of a dataset as NumPy arrays: {error}. Type: loader=native"
                ) from error

    @property
    def num_steps(self) -> int:
        return self._plan.num_steps

    # ---- the graph -----------------------------------------------------------------------------------------

    def _build(self, epoch: int) -> Pipeline:
        on_gpu = self._device.type == "cuda"
        seed = self._plan.seed if self._config.pipeline_seed is None else self._config.pipeline_seed
        pipeline = Pipeline(
            batch_size=min(self._plan.batch_size, max(1, self._plan.num_samples)),
            num_threads=self._threads,
            device_id=self._device.index if on_gpu else None,
            # a pipeline that is built anew, for a resumed run too, must not draw the first epoch's crops again
            seed=int(np.random.SeedSequence([seed, self._plan.rank, epoch]).generate_state(1)[0] >> 1),
            prefetch_queue_depth=self._config.prefetch_queue_depth,
            exec_dynamic=True,  # its outputs own their memory: torch may keep them
        )
        with pipeline:
            first, labels, ids = fn.external_source(source=self._feed, num_outputs=3, batch=True)
            inputs = self._images(first) if self._split.transform is not None else first
            pipeline.set_outputs(*((inputs.gpu(), labels.gpu(), ids) if on_gpu else (inputs, labels, ids)))
        pipeline.build()
        return pipeline

    def _images(self, first: Any) -> Any:
        """From paths, or from images in memory, to samples (size, size, C)."""
        spec, normalization = self._split.transform, self._split.normalization
        assert spec is not None
        assert normalization is not None
        filters = {"interp_type": types.INTERP_LINEAR, "antialias": True}
        window = {
            "random_area": list(spec.scale),
            "random_aspect_ratio": list(spec.ratio),
            "num_attempts": CROP_ATTEMPTS,
        }
        if isinstance(self._split.source, ImageFiles):
            decoding: dict[str, Any] = {"device": self._decode, "output_type": types.RGB}
            if self._decode == "mixed":
                decoding["hw_decoder_load"] = self._config.hw_decoder_load
            encoded = fn.io.file.read(first)
            if spec.random_crop:
                images = fn.decoders.image_random_crop(encoded, **decoding, **window)  # decodes no more than the crop
                images = fn.resize(images, size=[spec.size, spec.size], subpixel_scale=False, **filters)
            else:
                images = fn.decoders.image(encoded, **decoding)
        else:
            images = fn.reinterpret(first, layout="HWC")
            if self._device.type == "cuda":
                images = images.gpu()
            if spec.random_crop:
                images = fn.random_resized_crop(images, size=[spec.size, spec.size], **window, **filters)
        if not spec.random_crop:
            images = fn.resize(images, resize_shorter=spec.resize, subpixel_scale=False, **filters)
            images = fn.crop(images, crop=[spec.size, spec.size])
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

    # ---- an epoch ------------------------------------------------------------------------------------------

    def epoch(self, epoch: int) -> Iterator[Batch]:
        if not self._clean:
            self._drop_pipeline()  # broken off: what it had prepared belongs to the old epoch
        self._feed.start(epoch)
        if self.num_steps == 0:
            return
        if self._pipeline is None:
            self._pipeline = self._build(epoch)
        self._clean = False
        for _ in range(self.num_steps):
            try:
                # returns once the batch is ready, so that a wait for decoding on the GPU is seen as waiting; the
                # batches after it go on being made meanwhile
                inputs, targets, ids = self._pipeline.run()
            except RuntimeError as error:
                self._drop_pipeline()
                raise self._explain(error) from None
            self._feed.fed.popleft()
            # torch's current stream goes along: DALI reuses the memory only behind what is queued on it
            inputs, targets, ids = (torch.utils.dlpack.from_dlpack(out.as_tensor()) for out in (inputs, targets, ids))
            if self._split.transform is not None:
                inputs = inputs.permute(0, 3, 1, 2)
            yield Batch(inputs, targets, ids)
        try:
            self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
            self._clean = True
            return
        raise AssertionError("the pipeline gave more batches than the plan holds")

    def _explain(self, error: RuntimeError) -> Exception:
        """DALI does not say which file failed: decode those in flight one by one."""
        source = self._split.source
        if isinstance(source, ImageFiles):
            for ids in self._feed.fed:
                for index in ids.tolist():
                    path = source.paths[index]
                    if reason := _decode_alone(path):
                        try:
                            decoder("pillow")(path)  # says what is wrong with it in plainer words
                        except DataError as plain:
                            return plain
                        return DataError(why_unreadable(path, RuntimeError(reason)))
        elif isinstance(source, UserItems) and "DataError" in str(error):
            return DataError(str(error).split("DataError: ", 1)[1].splitlines()[0])
        return LoaderError(f"loader=dali: the pipeline failed: {_reason(error)}")

    def transfer(self, batch: Batch) -> Batch:
        return to_device(batch, self._device, non_blocking=True)

    def close(self) -> None:
        self._drop_pipeline()
        dali_backend.ReleaseUnusedMemory()

    def _drop_pipeline(self) -> None:
        self._pipeline, self._clean = None, True
        gc.collect()  # the pipeline and its operators hold each other


def _decode_alone(path: str) -> str | None:
    """What DALI says of one file; None where it decodes."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        name = fn.external_source(source=lambda: [np.frombuffer(path.encode(), np.uint8)], batch=True)
        pipeline.set_outputs(fn.decoders.image(fn.io.file.read(name), device="cpu"))
    try:
        pipeline.run()
    except RuntimeError as error:
        return _reason(error)
    return None


def _reason(error: RuntimeError) -> str:
    """The line of DALI's message that says what went wrong, without the frames of the pipeline's definition."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    for marker in ("Error when executing", "nvImageCodec failure", "Failed to", "Could not", "Assert"):
        for line in lines:
            if marker in line:
                return line.split("]: ")[-1]
    return lines[0] if lines else "no reason given"
