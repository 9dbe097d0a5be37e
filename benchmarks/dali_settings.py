"""Which settings of ``loader=dali`` are fast on this machine: a grid of them in turns, each against the default.

    python -m benchmarks.dali_settings [rounds=10] [seconds=4] [sizes=400x320,500x375] [threads=1,2,3] [depth=1,2,3,4]
    python -m benchmarks.dali_settings device=cuda [hw=0,0.35,0.65,0.9] [threads=...] [depth=...]

The default is what ``conf/loader/dali.yaml`` gives, `auto` threads counted out; it runs in any case. An axis may be one
value: with CUDA a grid of all three is large, and every arm holds a context and a pipeline on the device, so take one or
two axes at a time. ``hw`` is ``hw_decoder_load``, which only decoding on the GPU has.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf

from benchmarks.loader_throughput import NUM_FILES, ours, photos
from benchmarks.turns import Arm, table, take_turns
from loaderlab import data
from loaderlab.config import AUTO, DaliLoader
from loaderlab.loaders.dali import MAX_AUTO_THREADS
from loaderlab.machine import available_cores


def default(cuda: bool) -> DaliLoader:
    values: Any = OmegaConf.to_container(OmegaConf.load("conf/loader/dali.yaml"))
    settings = DaliLoader(**{name: value for name, value in values.items() if name != "defaults"})
    cores = available_cores()
    auto = min(MAX_AUTO_THREADS, cores if cuda else max(1, cores // 2))  # as loaderlab.loaders.dali takes them
    return replace(settings, num_threads=auto if settings.num_threads == AUTO else settings.num_threads)


def grid(options: dict[str, str], base: DaliLoader, cuda: bool) -> list[DaliLoader]:
    """The default first, then every combination of the axes."""
    cores = available_cores()
    threads = options.get("threads", ",".join(map(str, sorted({1, 2, 3, cores}))))
    load = options.get("hw", "0,0.35,0.65,0.9") if cuda else str(base.hw_decoder_load)
    found = [base]
    for num_threads, depth, share in itertools.product(
        map(int, threads.split(",")), map(int, options.get("depth", "1,2,3,4").split(",")), map(float, load.split(","))
    ):
        settings = replace(base, num_threads=num_threads, prefetch_queue_depth=depth, hw_decoder_load=share)
        if settings not in found:
            found.append(settings)
    return found


def name(settings: DaliLoader, cuda: bool) -> str:
    text = f"threads {settings.num_threads}, depth {settings.prefetch_queue_depth}"
    return text + (f", hw {settings.hw_decoder_load:g}" if cuda else "")


def main(arguments: Sequence[str]) -> None:
    options = dict(argument.split("=") for argument in arguments)
    cuda = options.get("device", "cpu") == "cuda"
    device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    base = default(cuda)
    for size in options.get("sizes", "400x320,500x375").split(","):
        files = photos(options, size)
        data.build(files, lambda *_: None)  # written once, before the arms
        arms = [Arm(name(settings, cuda), ours, (files, settings, device)) for settings in grid(options, base, cuda)]
        turns = take_turns(arms, int(options.get("rounds", 10)), float(options.get("seconds", 4)))
        print(f"\n{NUM_FILES} photos of {size} on {device}, {available_cores()} cores; the default is {arms[0].name}")
        print(table(turns, arms[0].name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
