"""Which settings of ``loader=dali`` are fast on this machine: a grid of them in turns, each against the default.

    python -m benchmarks.dali_settings [rounds=10] [seconds=4] [sizes=400x320,500x375] [threads=1,2,3] [depth=1,2,3,4]
    python -m benchmarks.dali_settings device=cuda [hw=0,0.35,0.65,0.9] [threads=...] [depth=...]

The default is what ``conf/loader/dali.yaml`` gives; the grid holds it again, by its numbers: how far those two are apart
is noise. An axis may be one value: with CUDA a grid of all three is large, and every arm holds a context and a pipeline on
the device, so take one or two axes at a time. ``hw`` is ``hw_decoder_load``, which only decoding on the GPU has.
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
from loaderlab.config import DaliLoader
from loaderlab.system.machine import available_cores


def settings_by_name(options: dict[str, str], cuda: bool) -> dict[str, DaliLoader]:
    """The default, then every combination of the axes."""
    values: Any = OmegaConf.to_container(OmegaConf.load("conf/loader/dali.yaml"))
    default = DaliLoader(**{name: value for name, value in values.items() if name != "defaults"})
    cores = ",".join(map(str, sorted({1, 2, 3, available_cores()})))
    threads, depths = options.get("threads", cores), options.get("depth", "1,2,3,4")
    loads = options.get("hw", "0,0.35,0.65,0.9") if cuda else str(default.hw_decoder_load)
    found = {"default": default}
    for count, depth, load in itertools.product(*(axis.split(",") for axis in (threads, depths, loads))):
        name = f"threads {count}, depth {depth}" + (f", hw {load}" if cuda else "")
        found[name] = replace(
            default, num_threads=int(count), prefetch_queue_depth=int(depth), hw_decoder_load=float(load)
        )
    return found


def main(arguments: Sequence[str]) -> None:
    options = dict(argument.split("=") for argument in arguments)
    cuda = options.get("device", "cpu") == "cuda"
    device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    for size in options.get("sizes", "400x320,500x375").split(","):
        files = photos(options, size)
        data.build(files, lambda *_: None)  # written once, before the arms look
        arms = [
            Arm(name, ours, (files, settings, device)) for name, settings in settings_by_name(options, cuda).items()
        ]
        turns = take_turns(arms, int(options.get("rounds", 10)), float(options.get("seconds", 4)))
        print(f"\n{NUM_FILES} photos of {size} on {device}, {available_cores()} cores")
        print(table(turns, "default"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
