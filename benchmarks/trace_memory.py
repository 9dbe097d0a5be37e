"""Measures the time and the peak memory of reading a large trace.

    python benchmarks/trace_memory.py 1000

Writes a trace of that many MB (1,000 by default) to a temporary folder, in the format of PyTorch's profiler on a GPU: steps
of 14 ms, with 3 ms in the DataLoader and then 2,000 operators with a launch and a kernel each. Reads it with the command in
a separate process, prints the time and the peak memory, checks the results and removes the file.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN_US = 4562149577595.086
HEAD = '{\n  "schemaVersion": 1,\n  "deviceProperties": [{"id": 0, "name": "NVIDIA H200"}],\n  "traceEvents": [\n'
TAIL = '  {"ph": "i", "name": "Record Window End", "pid": "", "tid": "", "ts": 1.0}\n  ],"traceName": "trace.json" }\n'
RANGE = """  {
    "ph": "X", "cat": "user_annotation", "name": "%s", "pid": 32468, "tid": 32468,
    "ts": %.3f, "dur": %.3f,
    "args": {
      "External id": 1, "Record function id": 0, "Ev Idx": 1
    }
  },
"""
OPERATOR = """  {
    "ph": "X", "cat": "cpu_op", "name": "aten::add_", "pid": 32468, "tid": 32470,
    "ts": %.3f, "dur": 3.500,
    "args": {
      "External id": %d, "Record function id": 0, "Sequence number": 720030, "Fwd thread id": 1, "Ev Idx": %d
    }
  },
  {
    "ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 32468, "tid": 32470,
    "ts": %.3f, "dur": 2.000,
    "args": {
      "External id": %d, "cbid": 211, "correlation": %d
    }
  },
  {
    "ph": "X", "cat": "kernel", "name": "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add\
<float>, std::array<char*, 3ul> >(int, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>)", "pid": 0, "tid": 7,
    "ts": %.3f, "dur": 4.250,
    "args": {
      "External id": %d, "queued": 0, "device": 0, "context": 1, "stream": 7, "correlation": %d,
      "registers per thread": 16, "shared memory": 0, "blocks per SM": 0.007576, "warps per SM": 0.030303,
      "grid": [1, 1, 1], "block": [128, 1, 1], "est. achieved occupancy %%": 0
    }
  },
"""
LOADER = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"


def write(path: Path, size_mb: int) -> int:
    """The number of steps of the trace that it writes."""
    steps = events = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(HEAD)
        while file.tell() < size_mb * 1_000_000:
            begin = BEGIN_US + 14_000 * steps
            file.write(RANGE % (f"ProfilerStep#{steps}", begin, 14_000))
            file.write(RANGE % (LOADER, begin + 10, 3_000))
            for index in range(2_000):
                at, events = begin + 3_500 + 5 * index, events + 1
                file.write(OPERATOR % (at, events, events, at + 1, events, events, at + 5, events, events))
            steps += 1
        file.write(TAIL)
    return steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the trace, reads it and prints the costs."""
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("size_mb", type=options.count, nargs="?", default=1000, help="size of the trace in MB")
    size_mb = parser.parse_args(arguments).size_mb
    with tempfile.TemporaryDirectory(prefix="trace_memory_") as folder:
        path = Path(folder) / "trace.json"
        steps = write(path, size_mb)
        size = path.stat().st_size
        command = [sys.executable, "-m", "experiments.trace", f"trace={path}", "format=json"]
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8", errors="replace"
        )
        seconds = time.perf_counter() - started
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    overall = json.loads(done.stdout)["overall"]
    expected = {"num_steps": steps, "step_ms": 14.0, "wait_pct": 21.429, "idle_pct": 39.286, "starved_pct": 21.429}
    assert overall == expected, overall
    print(
        f"{size / 1e6:,.0f} MB, {3 * 2_000 * steps:,} events: {seconds:.1f} s ({size / 1e6 / seconds:.0f} MB/s), ",
        end="",
    )
    print(f"peak memory {peak_mib:,.0f} MiB")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
