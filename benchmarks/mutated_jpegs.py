"""Reads mutated JPEG files with every loader and checks for crashes, hangs and failures without a file name.

    python -m benchmarks.mutated_jpegs --count 100000
    python -m benchmarks.mutated_jpegs --count 10000 --skip 90000 --loaders dali

Small pictures (4:4:4 and 4:2:0, progressive, grey, with EXIF) are damaged by flipped bits, truncation, overwritten headers,
inserted or removed bytes, and other sizes in their header. One file in four stays intact, so that every batch has a sample
that loads. Each loader runs in its own process with ``data.on_error=skip``. The checks of every chunk of files: the epoch
ends in time with the planned number of batches; each file was delivered, or skipped with its name in the reason; all intact
files were delivered; the process did not crash. For the native decoders, the skipped files are compared with the files that
cannot be decoded alone.
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
        "--loaders", nargs="+", help="any of native, 'native, Pillow', dali, spdl and resident (default: all)"
    )
    parser.add_argument(
        "--skip", type=options.count, default=0, help="files that an earlier run has read: other ones follow"
    )
    chosen = parser.parse_args(arguments)

    from benchmarks.harness.mutated_files import CHUNK, LOADERS, passes

    if unknown := set(chosen.loaders or ()) - set(LOADERS):
        parser.error(f"argument --loaders: no loader is called {', '.join(sorted(unknown))}")
    first = chosen.skip // CHUNK
    chunks = range(first, first - (-chosen.count // CHUNK))
    passed = [passes(name, chunks) for name in chosen.loaders or LOADERS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    sys.exit(main())
