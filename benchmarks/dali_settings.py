"""Compares a grid of settings of ``loader=dali`` with the default on this machine, in turns.

    python -m benchmarks.dali_settings --rounds 10 --seconds 4 --sizes 400x320 500x375 --threads 1 2 3 --depth 1 2 3 4
    python -m benchmarks.dali_settings --device cuda --hw 0 0.35 0.65 0.9 --threads 4 --depth 2

The default is what ``conf/loader/dali.yaml`` gives. The grid includes the same settings once more: the difference between
those two arms is noise. An axis may have one value. With CUDA, a grid of all three axes is large, and every arm keeps a
context and a pipeline on the device, so use one or two axes at a time. ``--hw`` is ``hw_decoder_load``, which applies only
to decoding on the GPU.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaderlab.config import DaliLoader

ROOT = Path(__file__).resolve().parents[1]
HW_LOADS = (0.0, 0.35, 0.65, 0.9)


def settings_by_name(
    threads: Sequence[int], depths: Sequence[int], loads: Sequence[float] | None
) -> dict[str, DaliLoader]:
    """The default, then every combination of the axes; ``loads`` is None if the processor decodes."""
    from omegaconf import OmegaConf

    from loaderlab.config import PROJECT, DaliLoader

    values: Any = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "loader" / "dali.yaml"))
    default = DaliLoader(**{name: value for name, value in values.items() if name != "defaults"})
    settings = {"default": default}
    for count, depth, load in itertools.product(threads, depths, loads or [default.hw_decoder_load]):
        name = f"threads {count}, depth {depth}" + (f", hw {load:g}" if loads else "")
        settings[name] = replace(default, num_threads=count, prefetch_queue_depth=depth, hw_decoder_load=load)
    return settings


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--rounds", type=options.count, default=10, help="repeats: turns of each arm")
    parser.add_argument("--seconds", type=options.number_above_0, default=4.0, help="length of a turn")
    parser.add_argument(
        "--sizes", type=options.size, nargs="+", default=["400x320", "500x375"], help="sizes of the photos in pixels"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device that the batches are copied to"
    )
    parser.add_argument(
        "--threads", type=options.count, nargs="+", help="num_threads (default: 1, 2, 3 and the number of cores)"
    )
    parser.add_argument("--depth", type=options.count, nargs="+", default=[1, 2, 3, 4], help="prefetch_queue_depth")
    parser.add_argument(
        "--hw", type=float, nargs="+", default=HW_LOADS, help="hw_decoder_load, only with --device cuda"
    )
    parser.add_argument("--root", help="folder of the photos (default: loaderlab_photos in the temporary folder)")
    chosen = parser.parse_args(arguments)

    import torch

    from benchmarks.harness.loader_arms import NUM_FILES, ours, photos
    from benchmarks.harness.turns import Arm, table, take_turns
    from loaderlab import data
    from loaderlab.system.machine import available_cores

    cuda = chosen.device == "cuda"
    device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    threads = chosen.threads or sorted({1, 2, 3, available_cores()})
    settings = settings_by_name(threads, chosen.depth, chosen.hw if cuda else None)
    for size in chosen.sizes:
        files = photos(size, chosen.root)
        data.build(files, lambda *_: None)  # written once, before the arms start
        arms = [Arm(name, ours, (files, loader, device)) for name, loader in settings.items()]
        turns = take_turns(arms, chosen.rounds, chosen.seconds)
        print(f"\n{NUM_FILES} photos of {size} on {device}, {available_cores()} cores")
        print(table(turns, "default"), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
