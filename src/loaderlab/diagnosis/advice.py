"""What to try against a bottleneck, and what it would give. Pure."""

from __future__ import annotations

import math

from loaderlab.diagnosis.evidence import DECODE, LOADER, POTENTIAL_X, PYTHON, STORAGE, WORTH_X, Advice, Evidence, Setup

MAKERS = {"native": "num_workers", "spdl": "num_threads"}  # of the loaders that build as many batches side by side


def advise(e: Evidence, s: Setup, bottleneck: str) -> tuple[Advice, ...]:
    """What to try against a bottleneck, best first; an advice that would gain under 5 % is not given."""
    most = e.headroom
    if most is None and e.starved_pct < 100:
        most = 1 / (1 - e.starved_pct / 100)
    match bottleneck:
        case "storage" | "CPU decode/transform" | "collation or Python" | "loader" | "device decode/transform":
            found = _feed_faster(e, s, bottleneck, most)
        case "host-to-device copy":
            found = _copy_faster(e, s, most)
        case "epoch gap":
            found = _shorten_gaps(s)
        case "interference":
            found = _disturb_less(e, s, most)
        case "host launch overhead":
            larger = f"batch_size={2 * s.batch_size}" if s.batch_size else ""
            found = [Advice("the host cannot queue work fast enough: larger steps", larger)]
            if not s.compiled:
                found.append(Advice("fewer and larger kernels", "model.compile=true"))
        case _:
            found = _compute_less(e, s)
    return tuple(advice for advice in found if advice.gain_x is None or advice.gain_x >= WORTH_X)


def _feed_faster(e: Evidence, s: Setup, bottleneck: str, most: float | None) -> list[Advice]:
    found = _kept_on_device(s, most)
    if s.loader in MAKERS:
        if bottleneck == PYTHON and s.settings.get("batched") is False:
            found.append(Advice("build whole batches instead of collating samples", "loader.batched=true", most))
        if s.in_memory and bottleneck == PYTHON and s.settings.get("num_workers"):
            found.append(Advice("data in memory is slower through workers", "loader.num_workers=0", most))
        elif s.loader == "spdl" and bottleneck == PYTHON:
            found.append(Advice("processes do not wait for each other's Python code", "loader=native", most))
        elif (workers := _more_workers(e, s, bottleneck)) is not None:
            found.append(workers)
        if s.image_files and s.settings.get("decoder") == "pillow":
            found.append(Advice("a faster JPEG decoder", "loader.decoder=torchcodec", most))
        if s.image_files and s.device_type == "cuda":
            found.append(Advice("decode on the GPU", "loader=dali", most))
    elif s.loader == "dali":
        threads = s.settings.get("num_threads")
        if isinstance(threads, int) and threads < s.cores and s.device_type == "cuda":
            found.append(Advice("more threads of the pipeline", f"loader.num_threads={s.cores}", most))
        if s.settings.get("decode") == "cpu" and s.device_type == "cuda" and s.image_files:
            found.append(Advice("decode on the GPU", "loader.decode=mixed", most))
    if bottleneck == STORAGE:
        found.append(Advice("keep the files on a disk of this machine, or in its memory", gain_x=most))
    if not found and bottleneck in (DECODE, LOADER) and s.image_files and s.loader != "resident":
        found.append(
            Advice(
                "store the images near the size that is trained on, which decodes faster, or give the job more cores",
                gain_x=most,
            )
        )
    return found


def _kept_on_device(s: Setup, most: float | None) -> list[Advice]:
    if not s.at_hand or s.loader == "resident":
        return []
    return [Advice("data this small can stay on the device", "loader=resident", most)]


def _more_workers(e: Evidence, s: Setup, bottleneck: str) -> Advice | None:
    """As many workers as feed the ceiling with a tenth to spare, within the cores; waiting needs no core."""
    key, makers = f"loader.{MAKERS[s.loader]}", "threads" if s.loader == "spdl" else "workers"
    if e.loader_alone is None or e.ceiling is None or e.rate is None:
        more = max(2, 2 * s.parallel)
        if more > min(2 * s.cores, s.most_workers or more):  # they may wait or compute: nobody knows
            return None
        dry = min(0.99, e.starved_pct / 100)
        # workers that exist take the whole step for a batch; the host itself no more than its waiting
        least = max(1 - dry, s.parallel / more if s.ahead else dry / more)
        return Advice(f"more {makers}", f"{key}={more}", 1 / least)
    now = s.parallel if s.ahead else 0
    each = e.loader_alone / max(1, s.parallel)
    room = 4 * s.cores if bottleneck == STORAGE else max(1, s.cores - 1 if s.device_type == "cuda" else s.cores)
    wanted = min(room, math.ceil(POTENTIAL_X * e.ceiling / each), s.most_workers or room)
    if wanted <= now:
        return None
    rate = min(e.ceiling, wanted * each)
    if s.device_type != "cuda" and e.loader_cores is not None:  # loader and step share the cores
        per_sample = e.loader_cores / e.loader_alone + s.threads / e.ceiling
        rate = min(rate, s.cores / per_sample)
    text = "one worker would work ahead of the step" if wanted == 1 else f"more {makers}, side by side"
    return Advice(text, f"{key}={wanted}", rate / e.rate, at_most=False)


def _copy_faster(e: Evidence, s: Setup, most: float | None) -> list[Advice]:
    found = _kept_on_device(s, most)
    if s.device_type == "cuda" and s.loader in MAKERS and not s.settings.get("pin_memory"):
        found.append(Advice("copy from pinned memory", "loader.pin_memory=true", most))
    elif s.device_type == "cuda" and s.loader in MAKERS and not s.settings.get("non_blocking"):
        found.append(Advice("let the host go on during the copy", "loader.non_blocking=true", most))
    elif s.settings.get("side_stream") is False and s.device_type == "cuda":
        found.append(Advice("copy beside the step", "loader.side_stream=true", most))
    if s.normalized_by_loader:
        found.append(Advice("copy bytes, a quarter of the size", "data.transform.normalize_on=device", most))
    return found or [Advice("fewer bytes a sample: smaller inputs, or a smaller type", gain_x=most)]


def _shorten_gaps(s: Setup) -> list[Advice]:
    if s.loader == "native" and s.settings.get("num_workers") and not s.settings.get("persistent_workers"):
        return [Advice("keep the workers from epoch to epoch", "loader.persistent_workers=true")]
    if s.in_memory and s.settings.get("num_workers"):
        return [Advice("data in memory needs no workers to start", "loader.num_workers=0")]
    return [Advice("fewer, longer epochs: each begins with an empty queue")]


def _disturb_less(e: Evidence, s: Setup, most: float | None) -> list[Advice]:
    found = []
    if s.loader == "native" and s.settings.get("batched") is False:
        found.append(Advice("less work for the same batches: build them whole", "loader.batched=true", most))
    if s.device_type != "cuda" and s.threads > 1:
        fewer = max(1, s.cores - s.parallel)
        if fewer < s.threads:
            found.append(Advice("leave cores to the loader", f"torch_threads={fewer}", most))
    key = (MAKERS | {"dali": "num_threads"}).get(s.loader)
    now = s.settings.get(key) if key else None
    if key and isinstance(now, int) and now > 1:
        enough = now - 1
        if e.loader_alone and e.ceiling:
            enough = min(enough, math.ceil(POTENTIAL_X * e.ceiling * now / e.loader_alone))
        found.append(Advice("leave cores to the step", f"loader.{key}={max(1, enough)}", most))
    return found or [Advice("give the job more cores", gain_x=most)]


def _compute_less(e: Evidence, s: Setup) -> list[Advice]:
    found = []
    if s.device_type == "cuda" and s.precision == "fp32" and s.takes_bf16:
        found.append(Advice("arithmetic of 16 bits, which the loader can feed", "precision=bf16"))
    step = sum(e.phases_ms.get(name, 0.0) for name in ("forward", "backward", "optimizer"))
    if step and e.phases_ms.get("optimizer", 0.0) > 0.4 * step:
        share = 100 * e.phases_ms["optimizer"] / step
        found.append(
            Advice(f"{share:.0f} % of the step is the optimizer: update less often", f"batch_size={2 * s.batch_size}")
        )
    if not found and s.device_type == "cuda" and not s.compiled:
        found.append(Advice("fewer and larger kernels", "model.compile=true"))
    return found
