"""Mutated JPEG files through every loader: no crash, no hang, every failure named.

    python -m benchmarks.mutated_jpegs --count 100000

Small pictures (4:4:4 and 4:2:0, progressive, grey, with EXIF) are spoiled by flipped bits, cuts, overwritten headers, bytes
put in or taken out, and other sizes in their header; one file in four is left whole, so that no batch is without a sample that
loads. Each loader runs in a process of its own under ``data.on_error=skip``. Of every chunk of files it is checked that the
epoch ends in time with the planned number of batches, that each file was either delivered or skipped with its name in the
reason, that all files left whole were delivered, and that what a process says ends in no crash. For the native decoders what
was skipped is compared with decoding each file alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--count", type=options.count, default=100_000, help="mutated files for each loader")
    parser.add_argument(
        "--loaders", nargs="+", help="of native, 'native, Pillow', dali, spdl and resident (default: all of them)"
    )
    chosen = parser.parse_args(arguments)

    from benchmarks.harness.mutated_files import CHUNK, LOADERS, through

    if unknown := set(chosen.loaders or ()) - set(LOADERS):
        parser.error(f"argument --loaders: no loader is called {', '.join(sorted(unknown))}")
    chunks = -(-chosen.count // CHUNK)
    well = [through(name, chunks) for name in chosen.loaders or LOADERS]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # run by its path, a file finds only its own folder
    sys.exit(main())
