"""Measures the stages from a JPEG file to a sample in the batch, in one thread: the share of each in the native loader's work.

    python -m benchmarks.decode_stages --sizes 400x320 500x375

The decoder's share is the limit of what other stages can cost: `benchmarks.loader_throughput` gives native's throughput as a share
of the decoder's. What a worker adds to these stages is the hand-over (`benchmarks.hand_over`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES = 200  # different ones


def stages_ms(size: str, passes: int) -> dict[str, float]:
    """Mean milliseconds per image of each stage."""
    import time
    from collections import defaultdict

    import numpy as np
    import torch

    from benchmarks.harness.loader_arms import photos
    from loaderlab import data
    from loaderlab.data.spec import EncodedImages
    from loaderlab.device.threads import torch_threads
    from loaderlab.loaders.decode import crop_window, decoder, resize
    from loaderlab.loaders.fetch import Request
    from loaderlab.loaders.header import check_header

    split = data.build(photos(size), lambda *_: None).train
    source, spec, decode = split.source, split.transform, decoder("torchcodec")
    assert isinstance(source, EncodedImages)
    assert spec is not None
    crops, flips = Request(np.arange(NUM_IMAGES), 0, 0, 0).draws(spec)
    out = torch.zeros(spec.size, spec.size, 3, dtype=torch.uint8).permute(2, 0, 1)
    totals: dict[str, float] = defaultdict(float)
    with torch_threads(1):
        for number in range(passes + 1):
            if number == 1:
                totals.clear()  # the first pass fills caches
            for index in range(NUM_IMAGES):
                times = [time.perf_counter()]
                encoded = source.read(index)
                times.append(time.perf_counter())
                check_header(encoded, split.on_error.max_pixels)
                times.append(time.perf_counter())
                image = decode(encoded)
                times.append(time.perf_counter())
                top, left, height, width = crop_window(image.shape[1], image.shape[2], spec, crops[index])
                times.append(time.perf_counter())
                image = resize(image[:, top : top + height, left : left + width], spec.size, spec.size)
                times.append(time.perf_counter())
                out.copy_(image.flip(-1) if flips[index] else image)
                times.append(time.perf_counter())
                names = ("read", "header", "decode", "crop window", "crop and resize", "flip and collate")
                for name, began, ended in zip(names, times, times[1:], strict=False):
                    totals[name] += 1e3 * (ended - began)
    return {name: total / passes / NUM_IMAGES for name, total in totals.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each size."""
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--passes", type=options.count, default=5, help=f"passes over {NUM_IMAGES} photos")
    parser.add_argument(
        "--sizes", type=options.size, nargs="+", default=["400x320", "500x375"], help="sizes of the photos in pixels"
    )
    chosen = parser.parse_args(arguments)
    for size in chosen.sizes:
        stages = stages_ms(size, chosen.passes)
        total = sum(stages.values())
        print(f"\n| {size} | ms per image | share |\n|---|---:|---:|")
        for name, mean in stages.items():
            print(f"| {name} | {mean:.4f} | {100 * mean / total:.1f} % |")
        print(f"| all | {total:.4f} | |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
