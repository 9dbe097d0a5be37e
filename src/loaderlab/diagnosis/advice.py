"""What to try against a bottleneck, and what it would give. Pure; it knows capabilities, and no loader or device by name."""

from __future__ import annotations

import math

from loaderlab.diagnosis.evidence import (
    DECODE,
    LOADER,
    POTENTIAL_X,
    PYTHON,
    STORAGE,
    WORTH_X,
    Advice,
    Evidence,
    Setup,
)
from loaderlab.loaders.capabilities import Makers


def advise(e: Evidence, s: Setup, bottleneck: str) -> tuple[Advice, ...]:
    """What to try against a bottleneck, best first; advice that would gain under 5 % is not given."""
    most = e.headroom
    if most is None and e.starved_pct < 100:
        most = 1 / (1 - e.starved_pct / 100)
    match bottleneck:
        case "storage" | "CPU decode/transform" | "collation or Python" | "loader" | "device decode/transform":
            advice = _feed_faster(e, s, bottleneck, most)
        case "host-to-device copy":
            advice = _copy_faster(s, most)
        case "epoch gap" | "start of each epoch":
            advice = _shorten_gaps(s)
        case "batch hand-over":
            advice = _hand_over_less(e, s, most)
        case "uneven batches":
            advice = _queue_more(s, most)
        case "interference":
            advice = _disturb_less(e, s, most)
        case "host launch overhead":
            text = "the host cannot queue work fast enough: larger steps"
            advice = [Advice(text, "batch_size", 2 * s.batch_size) if s.batch_size else Advice(text)]
            if not s.compiled:
                advice.append(Advice("fewer and larger kernels", "model.compile", True))
        case _:
            advice = _compute_less(e, s)
    return tuple(entry for entry in advice if entry.gain_x is None or entry.gain_x >= WORTH_X)


def _feed_faster(e: Evidence, s: Setup, bottleneck: str, most: float | None) -> list[Advice]:
    makers, loader = s.loader.makers, s.loader
    advice = _keep_on_device(s, most)
    if makers is not None and makers.whole_batches:
        if bottleneck == PYTHON and loader.collates_samples:
            advice.append(Advice("build whole batches instead of collating samples", "loader.batched", True, most))
        if s.in_memory and bottleneck == PYTHON and _has_processes(makers):
            advice.append(Advice("data in memory is slower through workers", makers.setting, 0, most))
        elif loader.use_processes is not None and bottleneck == PYTHON:
            advice.append(Advice("processes do not wait for each other's Python code", *loader.use_processes, most))
        elif (more := _more_makers(e, s, makers, bottleneck)) is not None:
            advice.append(more)
        if s.image_files and loader.faster_decoder is not None:
            advice.append(Advice("a faster JPEG decoder", *loader.faster_decoder, most))
    elif makers is not None and makers.count < s.cores and not s.device.uses_host_cores:
        advice.append(Advice("more threads of the pipeline", makers.setting, s.cores, most))
    if s.image_files and s.device.decodes_images and loader.decode_on_device is not None:
        advice.append(Advice("decode on the GPU", *loader.decode_on_device, most))
    if bottleneck == STORAGE:
        advice.append(Advice("keep the files on a disk of this machine, or in its memory", gain_x=most))
    if not advice and bottleneck in (DECODE, LOADER) and s.image_files and not loader.keeps_samples_on_device:
        text = "store the images near the size that is trained on, which decodes faster, or give the job more cores"
        advice.append(Advice(text, gain_x=most))
    return advice


def _has_processes(makers: Makers | None) -> bool:
    return makers is not None and makers.are_processes and makers.count > 0


def _keep_on_device(s: Setup, most: float | None) -> list[Advice]:
    if not s.at_hand or s.loader.keep_on_device is None:
        return []
    return [Advice("data this small can stay on the device", *s.loader.keep_on_device, most)]


def _hand_over_less(e: Evidence, s: Setup, most: float | None) -> list[Advice]:
    """Each batch costs the training process some milliseconds to take over from another process."""
    advice, makers = _keep_on_device(s, most), s.loader.makers
    if makers is not None and s.in_memory and _has_processes(makers):
        advice.append(Advice("data in memory is slower through workers", makers.setting, 0, most))
    if s.image_files and s.loader.use_threads is not None:
        advice.append(Advice("threads hand nothing over to another process", *s.loader.use_threads, most))
    if s.batch_size:
        half = 1 / (1 - min(99.0, e.starved_pct) / 200)  # twice as many samples for one hand-over
        advice.append(Advice("fewer hand-overs: larger batches", "batch_size", 2 * s.batch_size, half))
    return advice


def _queue_more(s: Setup, most: float | None) -> list[Advice]:
    """Single batches come late, and the queue is empty before they do."""
    if s.loader.queue is None:
        return []
    queue = s.loader.queue
    return [Advice("a longer queue covers batches that come late", queue.setting, 2 * queue.length, most)]


def _ceiling_with(e: Evidence, s: Setup, num_makers: int) -> float | None:
    """The ceiling with torch's threads as so many makers would leave them; None if it was not measured."""
    threads = s.threads_with(num_makers)
    return e.ceiling if threads == s.threads else e.ceiling_by_threads.get(threads)


def threads_to_probe(e: Evidence, s: Setup) -> int | None:
    """The number of torch's threads that following the advice on makers would bring about, and for which no ceiling has been
    measured; None if there is none."""
    makers = s.loader.makers
    if makers is None or not makers.whole_batches or None in (e.loader_alone, e.ceiling, e.rate):
        return None
    wanted = _wanted_makers(e, s, STORAGE if e.loader_cores is not None and e.loader_cores < 0.5 else DECODE)
    return None if _ceiling_with(e, s, wanted) is not None else s.threads_with(wanted)


def _wanted_makers(e: Evidence, s: Setup, bottleneck: str) -> int:
    """As many as feed the ceiling with a tenth to spare, within the cores; waiting needs no core."""
    assert e.loader_alone is not None
    assert e.ceiling is not None
    each = e.loader_alone / max(1, s.loader.parallel)
    within_cores = s.cores if s.device.uses_host_cores else s.cores - 1
    room = 4 * s.cores if bottleneck == STORAGE else max(1, within_cores)
    room = min(room, s.most_makers or room)
    enough = (
        count for count in range(1, room + 1) if count * each >= POTENTIAL_X * (_ceiling_with(e, s, count) or e.ceiling)
    )
    return next(enough, room)


def _more_makers(e: Evidence, s: Setup, makers: Makers, bottleneck: str) -> Advice | None:
    """As many workers or threads as feed the ceiling with a tenth to spare, within the cores; waiting needs no core."""
    parallel, ahead = s.loader.parallel, s.loader.works_ahead
    if e.loader_alone is None or e.ceiling is None or e.rate is None:
        more = max(2, 2 * parallel)
        if more > min(2 * s.cores, s.most_makers or more):  # they may wait or compute: nobody knows
            return None
        starved = min(0.99, e.starved_pct / 100)
        # workers that exist take the whole step for a batch; the host itself no more than its waiting
        least = max(1 - starved, parallel / more if ahead else starved / more)
        return Advice(f"more {makers.kind}", makers.setting, more, 1 / least)
    now = parallel if ahead else 0
    each = e.loader_alone / max(1, parallel)
    wanted = _wanted_makers(e, s, bottleneck)
    if wanted <= now:
        return None
    text = "one worker would work ahead of the step" if wanted == 1 else f"more {makers.kind}, side by side"
    ceiling = _ceiling_with(e, s, wanted)
    if ceiling is None:  # with other threads the step takes another time: nobody knows which
        return Advice(text, makers.setting, wanted)
    rate = min(ceiling, wanted * each)
    if s.device.uses_host_cores and e.loader_cores is not None:  # loader and step share the cores
        per_sample = e.loader_cores / e.loader_alone + s.threads_with(wanted) / ceiling
        rate = min(rate, s.cores / per_sample)
    return Advice(text, makers.setting, wanted, rate / e.rate, at_most=False)


def _copy_faster(s: Setup, most: float | None) -> list[Advice]:
    advice, copying = _keep_on_device(s, most), s.loader.copying
    if s.device.takes_copies and copying is not None:
        if not copying.pin_memory:
            advice.append(Advice("copy from pinned memory", "loader.pin_memory", True, most))
        elif not copying.non_blocking:
            advice.append(Advice("let the host go on during the copy", "loader.non_blocking", True, most))
        elif copying.side_stream is False:
            advice.append(Advice("copy beside the step", "loader.side_stream", True, most))
    if s.normalized_by_loader:
        text = "copy bytes, a quarter of the size"
        advice.append(Advice(text, "data.transform.normalize_on", "device", most))
    return advice or [Advice("fewer bytes a sample: smaller inputs, or a smaller type", gain_x=most)]


def _shorten_gaps(s: Setup) -> list[Advice]:
    makers = s.loader.makers
    if _has_processes(makers) and not s.loader.keeps_makers:
        return [Advice("keep the workers from epoch to epoch", "loader.persistent_workers", True)]
    if makers is not None and s.in_memory and _has_processes(makers):
        return [Advice("data in memory needs no workers to start", makers.setting, 0)]
    return [Advice("fewer, longer epochs: each begins with an empty queue")]


def _disturb_less(e: Evidence, s: Setup, most: float | None) -> list[Advice]:
    advice, makers = list[Advice](), s.loader.makers
    if s.loader.collates_samples:
        advice.append(Advice("less work for the same batches: build them whole", "loader.batched", True, most))
    if s.device.uses_host_cores and s.threads > 1:
        fewer = max(1, s.cores - s.loader.parallel)
        if fewer < s.threads:
            advice.append(Advice("leave cores to the loader", "torch_threads", fewer, most))
    if makers is not None and makers.count > 1:
        enough = makers.count - 1
        if e.loader_alone and e.ceiling:
            enough = min(enough, math.ceil(POTENTIAL_X * e.ceiling * makers.count / e.loader_alone))
        advice.append(Advice("leave cores to the step", makers.setting, max(1, enough), most))
    return advice or [Advice("give the job more cores", gain_x=most)]


def _compute_less(e: Evidence, s: Setup) -> list[Advice]:
    advice = []
    if s.precision == "fp32" and s.device.fast_bf16:
        advice.append(Advice("arithmetic of 16 bits, which the loader can feed", "precision", "bf16"))
    step = sum(e.phases_ms.get(name, 0.0) for name in ("forward", "backward", "optimizer"))
    if step and e.phases_ms.get("optimizer", 0.0) > 0.4 * step:
        share = 100 * e.phases_ms["optimizer"] / step
        text = f"{share:.0f} % of the step is the optimizer: update less often"
        advice.append(Advice(text, "batch_size", 2 * s.batch_size))
    if not advice and s.device.asynchronous and not s.compiled:
        advice.append(Advice("fewer and larger kernels", "model.compile", True))
    return advice
