"""Traces as in bug reports: the output of other profilers and for other devices."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from loaderlab.config import TraceConfig, UserError
from loaderlab.trace import reader as reader_module
from loaderlab.trace.analysis import analyse
from loaderlab.trace.collect import collect
from tests.trace.test_trace import LOADER, Event, Read, event, every, read, run, shares, step, steps, wait, work

__all__ = ["read"]  # a fixture


def base() -> list[Event]:
    """Steps of 1 ms without device work, which wait for the loader in their first 0.4 ms."""
    return steps() + every(5, wait, 0, 400)


# ---- kernels that last too long (TraceLens#669) --------------------------------------------------------------------


def test_a_kernel_ends_where_the_next_of_its_stream_starts(read: Read) -> None:
    """Kernels run in the second half of each step; the first one is written as lasting until the last step's end."""
    kernels = [work(500, 4950), *every(5, work, 500, 600)[1:], *every(5, work, 600, 1000)]
    reading = read(base() + kernels)
    assert shares(reading) == pytest.approx((40, 50, 40))
    assert reading.notes == (
        "1 kernel ends after the next kernel of the same stream (pid and tid) has ended (ROCm's profiler sometimes writes this): "
        "cut where the next kernel starts. Idle and starved may still be too low",
    )
    assert reading.verdict.grade == "starved"


def test_several_kernels_that_last_too_long_are_counted(read: Read) -> None:
    kernels = every(5, work, 500, 600) + every(5, work, 600, 1000)
    for index in (0, 2, 5):
        kernels[index] |= {"dur": 99_000.0}
    reading = read(base() + kernels)
    assert [note.split()[:3] for note in reading.notes] == [["3", "kernels", "end"]]
    # the third is the last one of its step, so its end is not known: up to half a step of idle time is missing
    assert shares(reading) == pytest.approx((40, 40, 32))


def test_kernels_of_other_streams_devices_and_kinds_cut_nothing(read: Read) -> None:
    long_kernel = [work(0, 5000)]
    others = every(5, lambda a, b: work(a, b, stream=8), 10, 20)
    others += every(5, lambda a, b: work(a, b, cat="gpu_memcpy"), 10, 20)
    others += every(5, lambda a, b: work(a, b, cat="gpu_memset"), 10, 20)
    others += [work(100, 100), work(0, 100)]  # length 0; the same start
    reading = read(base() + long_kernel + others)
    assert shares(reading) == pytest.approx((40, 0, 0))
    assert not reading.notes


def test_an_overlap_with_the_next_kernel_only_adds_no_note(read: Read) -> None:
    """As with CUDA's programmatic dependent launch: the device's busy time is the same."""
    reading = read(base() + every(5, work, 500, 900) + every(5, work, 850, 1000))
    assert shares(reading) == pytest.approx((40, 50, 40))
    assert not reading.notes


def test_kernels_of_merged_processes_are_not_cut(read: Read) -> None:
    """Both processes use stream 7 of a GPU that each of them numbers 0: their kernels do run at the same time."""
    events = base() + [step(index, 1000 * index, 1000 * index + 1000, pid=9) for index in range(5)]
    reading = read([*events, work(0, 5000), *every(5, work, 600, 700)], pid="7", device=0)
    assert shares(reading) == pytest.approx((40, 0, 0))
    assert "1 kernel ends after" in reading.notes[0]
    assert "not cut, since this file has several processes" in reading.notes[0]


def test_kernels_without_a_thread_are_not_cut(read: Read) -> None:
    events = [one | {"tid": None} for one in [work(0, 5000), *every(5, work, 600, 700)]]
    assert shares(read(base() + events)) == pytest.approx((40, 0, 0))


# ---- copies written as kernels (kineto#1295) -----------------------------------------------------------------------

COPIES = [
    "CopyHostToDevice",
    "CopyDeviceToHost",
    "Memcpy HtoD (Pinned -> Device)",
    "MEMORY_COPY_HOST_TO_DEVICE",
    "__amd_rocclr_copyBuffer.kd",
]
COMPUTE = [
    "direct_copy_kernel_cuda",
    "memcpy_kernel<float>",
    "CatArrayBatchedCopy",
    "__amd_rocclr_fillBufferAligned.kd",
]


@pytest.mark.parametrize("name", [*COPIES, *COMPUTE])
def test_a_kernel_with_a_copys_name_is_a_copy(read: Read, name: str) -> None:
    copies = every(5, lambda a, b: work(a, b) | {"name": name}, 500, 700)
    reading = read(base() + copies + every(5, work, 700, 1000))
    assert shares(reading) == pytest.approx((40, 50, 40))
    if name in COMPUTE:
        assert reading.copy_pct == pytest.approx(0)
        assert not reading.notes
    else:
        assert reading.copy_pct == pytest.approx(20)
        assert f"kernels counted as copies because of their names: {name} (5)" in reading.notes[0]


def test_a_copy_written_as_a_kernel_cuts_no_kernel(read: Read) -> None:
    copies = every(5, lambda a, b: work(a, b) | {"name": "CopyHostToDevice"}, 600, 700)
    reading = read(base() + every(5, work, 500, 1000) + copies)
    assert shares(reading) == pytest.approx((40, 50, 40))
    assert reading.copy_pct == pytest.approx(0)


# ---- CUDA graphs (HolisticTraceAnalysis, negative_queue_length_values_check) ----------------------------------------


@pytest.mark.parametrize("name", ["cudaGraphLaunch", "cudaGraphLaunch_v10000", "cuGraphLaunch", "hipGraphLaunch"])
@pytest.mark.parametrize("category", ["cuda_runtime", "cuda_driver"])
def test_launches_of_cuda_graphs_are_noted(read: Read, name: str, category: str) -> None:
    """A real trace of an A100 has 64 % idle time, apparently because most kernels of its graphs were not recorded."""
    launches = every(3, lambda a, b: event(category, name, a, b), 400, 410)
    reading = read(base() + every(5, work, 500, 1000) + launches)
    assert shares(reading) == pytest.approx((40, 50, 40))
    (note,) = reading.notes
    assert note.startswith("launches of CUDA graphs: 3. ")
    assert "idle and starved are too high" in note


@pytest.mark.parametrize("name", ["cudaLaunchKernel", "cudaGraphInstantiate", "cudaGraphExecDestroy", None])
def test_other_calls_of_the_host_are_not_launches_of_graphs(read: Read, name: str | None) -> None:
    calls = every(3, lambda a, b: event("cuda_runtime", "", a, b) | {"name": name}, 400, 410)
    assert not read(base() + every(5, work, 500, 1000) + calls).notes


# ---- other accelerators --------------------------------------------------------------------------------------------


def test_the_work_of_another_accelerator_is_named(read: Read) -> None:
    mtia = every(5, lambda a, b: event("mtia_ccp_events", "op", a, b, pid=0), 500, 1000)
    plain = every(5, lambda a, b: {**event("", "op", a, b), "cat": None}, 500, 600)
    host = every(5, lambda a, b: event("cuda_runtime", "launch", a, b), 500, 510)
    reading = read(base() + mtia + plain + host)
    assert shares(reading) == pytest.approx((40, None, None))
    assert reading.verdict.grade == "inconclusive"
    because = reading.verdict.because
    assert "It has other events: mtia_ccp_events (5), no category (5); events of an accelerator" in because
    assert "waited for data 40.0 %" in because
    assert "no GPU work" not in because
    assert "cuda_runtime" not in because
    assert "no GPU work" in read(base() + host).verdict.because


def test_the_list_of_other_events_is_short(read: Read) -> None:
    many = [event(f"kind{index}", "op", 500, 600) for index in range(9)]
    because = read(base() + many).verdict.because
    assert "kind5 (1) and 3 more" in because
    assert "kind6" not in because


# ---- a wait outside the steps --------------------------------------------------------------------------------------


def test_a_wait_that_only_touches_a_step_does_not_count(read: Read) -> None:
    """A validation loader is read right after the last step: it is not known when the steps wait."""
    reading = read(steps() + every(5, work, 500, 1000) + [wait(5000, 6000)])
    assert shares(reading) == pytest.approx((None, 50, None))
    assert reading.verdict.grade == "inconclusive"


# ---- invalid numbers -----------------------------------------------------------------------------------------------

HUGE = [10**400, -(10**400), 1e300, -1e300, 10**4000, 2**63, math.inf, -math.inf]


@pytest.mark.parametrize("key", ["ts", "dur"])
@pytest.mark.parametrize("value", HUGE, ids=lambda value: f"{str(value)[:5]}")
@pytest.mark.parametrize("make", [work, wait, lambda a, b: step(9, a, b)], ids=["work", "wait", "step"])
def test_a_time_that_overflows_is_a_one_line_error(
    read: Read, key: str, value: float, make: Callable[..., Event]
) -> None:
    with pytest.raises(UserError) as refused:
        read([*base(), *every(5, work, 500, 1000), make(9000, 9001) | {key: value}])
    message = str(refused.value)
    assert f"has {key}=" in message
    assert "must be a number of microseconds" in message
    assert len(message) < 400
    assert "\n" not in message


@pytest.mark.parametrize("field", ["pid", "tid", "device", "name", "number"])
def test_a_number_of_400_digits_elsewhere_changes_nothing(read: Read, field: str) -> None:
    huge = int("9" * 400)
    more = work(2500, 2600)
    if field == "device":
        more["args"] = {"device": huge}
    elif field == "number":
        more = event("user_annotation", "ProfilerStep#" + "9" * 5000, 9000, 9001)  # more digits than int() accepts
    else:
        more[field] = huge
    reading = read([*base(), *every(5, work, 500, 1000), more])
    assert reading.overall.num_steps == 5
    assert dict(reading.waits) == {LOADER: 5}


def test_a_number_of_5000_digits_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    path.write_text('[{"ph": "X", "cat": "kernel", "name": "a", "dur": 1, "ts": ' + "9" * 5000 + "}]")
    assert run(f"trace={path}") == 1
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1
    assert len(said.err) < 600


# ---- unescaped strings (pytorch#98432, #113001) --------------------------------------------------------------------


def raw(name: str, number: int = 0) -> str:
    """An event as written by PyTorch on Windows, with an unescaped name."""
    return (
        f'{{"ph": "X", "cat": "python_function", "name": "{name}", "pid": 7, "tid": 7, "ts": {number}, "dur": 1, '
        '"args": {"Python id": 1}}'
    )


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
def test_unescaped_backslashes_of_windows_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(reader_module, "CHUNK", chunk)
    names = [
        r"C:\Users\me\x.py(3): f",
        r"torch\cuda\__init__.py(219): _lazy_init",
        r"\\server\share\u12.py",
        r"a\\Users\"quoted\" \u00e4\Z",
    ]
    expected = [r"C:\Users\me\x.py(3): f", r"torch\cuda\__init__.py(219): _lazy_init", "\\server\\share\\u12.py"]
    expected.append('a\\Users"quoted" ä\\Z')
    path = tmp_path / "trace.json"
    path.write_text('{"traceEvents": [' + ",\n".join(map(raw, names)) + "]}")
    names_read = [one["name"] for one in reader_module.events(path, lambda _: None)]
    assert names_read == expected


def test_an_escape_across_two_chunks_is_still_an_escape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.json"
    path.write_text("[" + raw(r"\Users \u00e4 \n") + "]")
    for size in range(1, 80):
        monkeypatch.setattr(reader_module, "CHUNK", size)
        assert [one["name"] for one in reader_module.events(path, lambda _: None)] == ["\\Users ä \n"]


def test_a_windows_trace_has_the_same_shares(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    events = [*map(json.dumps, base() + every(5, work, 500, 1000)), *[raw(r"torch\nn\modules\x.py(1): y")] * 9]
    path.write_text("[" + ",".join(events) + "]")
    reading = analyse(collect(reader_module.events(path, lambda _: None), "auto"), TraceConfig(trace=str(path)))
    assert shares(reading) == pytest.approx((40, 50, 40))


UNESCAPED: list[str] = [
    '_test_lib_impl = torch.library.Library("_inductor_test", "IMPL")\n(1): <module>',
    'a " b',
    'f(", "g")',
    "C:\\Users\\me\\",  # the backslash escapes the quote that should end the name
]


@pytest.mark.parametrize("name", UNESCAPED)
def test_unescaped_quotes_are_refused_with_advice(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.json"
    path.write_text("[" + raw(name) + "]")
    assert run(f"trace={path}") == 1
    said = capsys.readouterr().err.strip()
    assert "record the trace again with with_stack=False" in said
    assert "is not valid JSON from character" in said
    assert len(said.splitlines()) == 1


def test_another_error_does_not_mention_quotes(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text('[{"ph": "X", "dur": 1 2}]')
    with pytest.raises(UserError, match="is not valid JSON") as refused:
        list(reader_module.events(path, lambda _: None))
    assert "with_stack" not in str(refused.value)
