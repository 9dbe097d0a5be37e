"""Advice against a bottleneck, with the expected gain. Pure; it uses capabilities and knows no loader or device by name."""

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
    core_s_per_sample,
)
from loaderlab.diagnosis.feed_limit import feed_limit
from loaderlab.diagnosis.line_advice import advice_by_lines
from loaderlab.loaders.capabilities import Makers


def advise(e: Evidence, s: Setup, bottleneck: str) -> tuple[Advice, ...]:
    """Advice against a bottleneck, best first; advice that would gain less than 5 % is left out."""
    max_gain = e.headroom
    if max_gain is None and e.starved_pct < 100:
        max_gain = 1 / (1 - e.starved_pct / 100)
    match bottleneck:
        case "storage" | "CPU decode/transform" | "collation or Python" | "loader" | "device decode/transform":
            advice = _by_lines(e, s) + _speed_up_loader(e, s, bottleneck, max_gain)
        case "host-to-device copy":
            advice = _speed_up_copy(s, max_gain)
        case "epoch gap" | "start of each epoch":
            advice = _shorten_gaps(s)
        case "batch hand-over":
            advice = _reduce_hand_overs(e, s, max_gain)
        case "uneven batches":
            advice = _lengthen_queue(e, s, max_gain)
        case "interference":
            advice = _by_lines(e, s) + _reduce_interference(e, s, max_gain)
        case "host launch overhead":
            advice = _launch_less_often(s)
        case _:
            advice = [] if s.device.emulated else _speed_up_step(e, s)  # an emulated step has a fixed speed
    return tuple(entry for entry in advice if entry.gain_x is None or entry.gain_x >= WORTH_X)


def _by_lines(e: Evidence, s: Setup) -> list[Advice]:
    return [] if e.lines is None else advice_by_lines(e.lines, s)


def _speed_up_loader(e: Evidence, s: Setup, bottleneck: str, max_gain: float | None) -> list[Advice]:
    makers, loader = s.loader.makers, s.loader
    advice = _keep_on_device(s, max_gain)
    if makers is not None and makers.whole_batches:
        if bottleneck == PYTHON and loader.collates_samples:
            advice.append(Advice("build whole batches instead of collating samples", "loader.batched", True, max_gain))
        if s.in_memory and bottleneck == PYTHON and _has_processes(makers):
            advice.append(Advice("data in memory is faster without workers", makers.setting, 0, max_gain))
        elif loader.use_processes is not None and bottleneck == PYTHON:
            advice.append(Advice("worker processes do not share an interpreter lock", *loader.use_processes, max_gain))
        elif (more := _more_makers(e, s, makers, bottleneck)) is not None:
            advice.append(more)
        if s.image_files and loader.faster_decoder is not None:
            advice.append(Advice("a faster JPEG decoder", *loader.faster_decoder, max_gain))
    elif makers is not None and makers.count < s.cores and not s.device.uses_host_cores:
        advice.append(Advice("more pipeline threads", makers.setting, s.cores, max_gain))
    if s.image_files and s.device.decodes_images and loader.decode_on_device is not None:
        advice.append(Advice("decode on the GPU", *loader.decode_on_device, max_gain))
    if bottleneck == STORAGE:
        advice.append(Advice("keep the files on a local disk or in memory", gain_x=max_gain))
    if not advice and bottleneck in (DECODE, LOADER) and s.image_files and not loader.keeps_samples_on_device:
        text = "store the images close to the training size, so that they decode faster, or give the job more cores"
        advice.append(Advice(text, gain_x=max_gain))
    return advice


def _has_processes(makers: Makers | None) -> bool:
    return makers is not None and makers.are_processes and makers.count > 0


def _keep_on_device(s: Setup, max_gain: float | None) -> list[Advice]:
    if not s.fits_on_device or s.loader.keep_on_device is None:
        return []
    text = "data this small can stay on the device"
    if s.device.emulated:
        text = "data this small can stay in memory as batches, and on a real accelerator in its own memory"
    return [Advice(text, *s.loader.keep_on_device, max_gain)]


def _reduce_hand_overs(e: Evidence, s: Setup, max_gain: float | None) -> list[Advice]:
    """Advice for a training process that needs some milliseconds to receive each batch from a worker."""
    advice, makers = _keep_on_device(s, max_gain), s.loader.makers
    if makers is not None and s.in_memory and _has_processes(makers):
        advice.append(Advice("data in memory is faster without workers", makers.setting, 0, max_gain))
    if s.image_files and s.loader.use_threads is not None:
        advice.append(Advice("threads need not send batches to another process", *s.loader.use_threads, max_gain))
    if s.batch_size:
        gain_x = 1 / (1 - min(99.0, e.starved_pct) / 200)  # half as many hand-overs per sample
        advice.append(Advice("larger batches need fewer hand-overs", "batch_size", 2 * s.batch_size, gain_x))
    return advice


def _lengthen_queue(e: Evidence, s: Setup, max_gain: float | None) -> list[Advice]:
    """A queue that lasts through the waits for late batches."""
    queue, makers = s.loader.queue, s.loader.makers
    if queue is None:
        return []
    length = 2 * queue.length
    if e.late_steps is not None:
        num_queues = makers.count if makers is not None and makers.are_processes else 1  # each worker has its own queue
        length = queue.length + math.ceil(e.late_steps / max(1, num_queues))
        length = min(max(length, queue.length + 1), 8 * queue.length)  # a queue costs memory
    return [Advice("a longer queue hides batches that come late", queue.setting, length, max_gain)]


def _ceiling_with(e: Evidence, s: Setup, num_makers: int) -> float | None:
    """The ceiling with the torch threads that this many makers would leave; None if it was not measured."""
    threads = s.threads_with(num_makers)
    return e.ceiling if threads == s.threads else e.ceiling_by_threads.get(threads)


def threads_to_probe(e: Evidence, s: Setup) -> int | None:
    """The number of torch threads after following the advice on makers, if no ceiling was measured with it; otherwise None."""
    makers = s.loader.makers
    if makers is None or not makers.whole_batches or None in (e.loader_alone, e.ceiling, e.rate):
        return None
    count = _enough_makers(e, s, STORAGE if e.loader_cores is not None and e.loader_cores < 0.5 else DECODE)
    return None if _ceiling_with(e, s, count) is not None else s.threads_with(count)


def _enough_makers(e: Evidence, s: Setup, bottleneck: str) -> int:
    """The fewest makers that deliver the ceiling plus 10 %, as far as the cores allow; makers that wait need no core."""
    assert e.loader_alone is not None
    assert e.ceiling is not None
    rate_of_one = e.loader_alone / max(1, s.loader.parallel)
    # one core is left for a real device's launches; what an emulated one needs is in `_limits`
    within_cores = s.cores if s.device.uses_host_cores or s.device.emulated else s.cores - 1
    limit = 4 * s.cores if bottleneck == STORAGE else max(1, within_cores)
    limit = min(limit, s.max_makers or limit)
    enough = (
        count
        for count in range(1, limit + 1)
        if count * rate_of_one >= POTENTIAL_X * (_ceiling_with(e, s, count) or e.ceiling)
    )
    return next(enough, limit)


def _more_makers(e: Evidence, s: Setup, makers: Makers, bottleneck: str) -> Advice | None:
    """Advice to use more workers or threads; None if more of them are not needed or not possible."""
    parallel, ahead = s.loader.parallel, s.loader.works_ahead
    if e.loader_alone is None or e.ceiling is None or e.rate is None:
        count = max(2, 2 * parallel)
        if count > min(2 * s.cores, s.max_makers or count):  # it is not known whether the makers wait or compute
            return None
        starved = min(0.99, e.starved_pct / 100)
        # an existing worker needs a whole step for its batch; without workers, the host needs at most its waiting time
        shortest = max(1 - starved, parallel / count if ahead else starved / count)
        return Advice(f"more {makers.kind}", makers.setting, count, 1 / shortest)
    count_now = parallel if ahead else 0
    rate_of_one = e.loader_alone / max(1, parallel)
    count = _enough_makers(e, s, bottleneck)
    if count <= count_now:
        return None
    text = "one worker prepares batches while the step runs" if count == 1 else f"more {makers.kind} in parallel"
    if (
        threads := s.threads_with(count)
    ) != s.threads:  # otherwise a gain above the headroom looks like a contradiction
        text += f", and the step then uses {threads} torch thread{'s' * (threads > 1)} instead of {s.threads}"
    ceiling = _ceiling_with(e, s, count)
    if ceiling is None:  # with another number of threads the step takes another, unknown time
        return Advice(text, makers.setting, count)
    rate = min(ceiling, count * rate_of_one, *_limits(e, s, count, ceiling))
    return Advice(text, makers.setting, count, rate / e.rate, at_most=False)


def _limits(e: Evidence, s: Setup, num_makers: int, ceiling: float) -> list[float]:
    """Rates that no number of makers exceeds: by the cores, and by what queuing and copying take on an emulated accelerator."""
    limits, core_s = [], core_s_per_sample(e, s)
    if core_s is not None and s.device.uses_host_cores:  # loader and step share the cores
        core_s += s.threads_with(num_makers) / ceiling
    if core_s:
        limits.append(s.cores / core_s)
    if s.accelerator is not None and (limit := feed_limit(s.accelerator, s)) is not None:
        limits.append(limit.share * s.accelerator.rate)
    return limits


def _speed_up_copy(s: Setup, max_gain: float | None) -> list[Advice]:
    advice, copying = _keep_on_device(s, max_gain), s.loader.copying
    if s.device.takes_copies and copying is not None:
        if not copying.pin_memory:
            advice.append(Advice("copy from pinned memory", "loader.pin_memory", True, max_gain))
        elif not copying.non_blocking:
            advice.append(Advice("let the host continue during the copy", "loader.non_blocking", True, max_gain))
        elif copying.side_stream is False:
            advice.append(Advice("overlap the copy with the step", "loader.side_stream", True, max_gain))
    if s.normalized_by_loader:
        text = "copy bytes instead of floats, a quarter of the size"
        advice.append(Advice(text, "data.transform.normalize_on", "device", max_gain))
    return advice or [Advice("copy fewer bytes per sample: smaller inputs or a smaller dtype", gain_x=max_gain)]


def _shorten_gaps(s: Setup) -> list[Advice]:
    makers = s.loader.makers
    if _has_processes(makers) and not s.loader.keeps_makers:
        return [Advice("keep the workers between epochs", "loader.persistent_workers", True)]
    if makers is not None and s.in_memory and _has_processes(makers):
        return [Advice("data in memory needs no workers, which take time to start", makers.setting, 0)]
    return [Advice("use fewer, longer epochs, since each starts with an empty queue")]


def _reduce_interference(e: Evidence, s: Setup, max_gain: float | None) -> list[Advice]:
    advice, makers = list[Advice](), s.loader.makers
    if s.loader.collates_samples:
        advice.append(Advice("building whole batches takes less CPU time", "loader.batched", True, max_gain))
    if s.device.uses_host_cores and s.threads > 1:
        fewer = max(1, s.cores - s.loader.parallel)
        if fewer < s.threads:
            advice.append(Advice("leave cores for the loader", "torch_threads", fewer, max_gain))
    if makers is not None and makers.count > 1:
        enough = makers.count - 1
        if e.loader_alone and e.ceiling:
            enough = min(enough, math.ceil(POTENTIAL_X * e.ceiling * makers.count / e.loader_alone))
        advice.append(Advice("leave cores for the step", makers.setting, max(1, enough), max_gain))
    return advice or [Advice("give the job more cores", gain_x=max_gain)]


def _launch_less_often(s: Setup) -> list[Advice]:
    """Advice for a host that needs longer to queue a step than the device needs to do it."""
    text = "the host cannot launch kernels fast enough, so use larger batches"
    if s.accelerator is not None:
        text = f"queuing a step takes {s.accelerator.host_ms:g} ms (accelerator.host_ms), so use larger batches"
    advice = [Advice(text, "batch_size", 2 * s.batch_size) if s.batch_size else Advice(text)]
    if not s.compiled and not s.device.emulated:
        advice.append(Advice("fewer and larger kernels", "model.compile", True))
    return advice


def _speed_up_step(e: Evidence, s: Setup) -> list[Advice]:
    advice = []
    if s.precision == "fp32" and s.device.fast_bf16:
        advice.append(Advice("16-bit arithmetic is faster, and the loader can keep up", "precision", "bf16"))
    step = sum(e.phases_ms.get(name, 0.0) for name in ("forward", "backward", "optimizer"))
    if step and e.phases_ms.get("optimizer", 0.0) > 0.4 * step:
        share = 100 * e.phases_ms["optimizer"] / step
        text = f"the optimizer takes {share:.0f} % of the step, so update less often"
        advice.append(Advice(text, "batch_size", 2 * s.batch_size))
    if not advice and s.device.asynchronous and not s.compiled:
        advice.append(Advice("fewer and larger kernels", "model.compile", True))
    return advice
