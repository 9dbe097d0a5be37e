"""Starvation computed from traces small enough to check by hand, from a real trace, and by the command."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from torch.utils.data import DataLoader, TensorDataset

from loaderlab.cli.trace import start
from loaderlab.config import PROJECT, TraceConfig, UserError
from loaderlab.system.terminal import Terminal
from loaderlab.trace.analysis import Reading
from loaderlab.trace.collect import wait_pattern
from loaderlab.trace.read import read_trace, report

Event = dict[str, Any]
LOADER = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
ORIGIN_US = 1_700_000_000_000_000.0  # a clock that counts from 1970


def event(cat: str, name: str, start_us: float, end_us: float, pid: Any = 7, tid: Any = 7, **args: Any) -> Event:
    times = {"ts": ORIGIN_US + start_us, "dur": end_us - start_us}
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, **times, "args": args}


def step(number: int, start_us: float, end_us: float, cat: str = "user_annotation", **where: Any) -> Event:
    return event(cat, f"ProfilerStep#{number}", start_us, end_us, **where)


def wait(start_us: float, end_us: float, name: str = LOADER, cat: str = "user_annotation", **where: Any) -> Event:
    return event(cat, name, start_us, end_us, **where)


def work(start_us: float, end_us: float, cat: str = "kernel", device: int = 0, stream: int = 7) -> Event:
    return event(cat, f"{cat} of something", start_us, end_us, pid=device, tid=stream, device=device, stream=stream)


def steps(count: int = 5) -> list[Event]:
    """Steps of 1 ms, one after the other, numbered from 3 on as by the profiler."""
    return [step(3 + index, 1000 * index, 1000 * index + 1000) for index in range(count)]


def every(count: int, make: Callable[[float, float], Event], start_us: float, end_us: float) -> list[Event]:
    """The same event in each step, at the same time in the step."""
    return [make(1000 * index + start_us, 1000 * index + end_us) for index in range(count)]


@pytest.fixture
def read(tmp_path: Path, terminal: Terminal) -> Callable[..., Reading]:
    def reading(events: list[Event], **settings: Any) -> Reading:
        path = tmp_path / "trace.json"
        path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
        return read_trace(TraceConfig(trace=str(path), **settings), terminal)

    return reading


Read = Callable[..., Reading]


def shares(reading: Reading) -> tuple[float | None, float | None, float | None]:
    """Wait, idle and starved over all steps, percent."""
    return reading.overall.wait_pct, reading.overall.idle_pct, reading.overall.starved_pct


def test_starved_is_idle_and_waiting_at_the_same_time(read: Read) -> None:
    # of each ms: waiting 0 to 0.4, working 0.3 to 0.8; so idle 0.5, starved 0.3
    reading = read(steps() + every(5, wait, 0, 400) + every(5, work, 300, 800))
    assert reading.overall.num_steps == 5
    assert reading.overall.step_ms == pytest.approx(1.0)
    assert shares(reading) == pytest.approx((40, 50, 30))
    assert [number for number, _ in reading.steps] == [3, 4, 5, 6, 7]
    for _, share in reading.steps:
        assert share.num_steps == 1
        assert share.step_ms == pytest.approx(1.0)
        assert (share.wait_pct, share.idle_pct, share.starved_pct) == pytest.approx((40, 50, 30))
    assert reading.starved_interval == pytest.approx((30, 30))
    assert (reading.verdict.grade, reading.verdict.bottleneck) == ("starved", "loader")
    assert "30.0 %" in str(reading.verdict)
    assert "1.43x (from the starved share alone)" in str(reading.verdict)  # 1 / 0.7
    assert dict(reading.waits) == {LOADER: 5}


def test_waiting_while_the_device_works_costs_nothing(read: Read) -> None:
    reading = read(steps() + every(5, wait, 0, 900) + every(5, work, 0, 980))
    assert shares(reading) == pytest.approx((90, 2, 0), abs=1e-9)
    assert (reading.verdict.grade, reading.verdict.bottleneck) == ("fed", "device compute")


def test_idle_without_waiting_is_no_starvation(read: Read) -> None:
    reading = read(steps() + every(5, wait, 0, 10) + every(5, work, 0, 100))
    assert shares(reading) == pytest.approx((1, 90, 0), abs=1e-9)
    assert (reading.verdict.grade, reading.verdict.bottleneck) == ("fed", "host launch overhead")


def test_steps_of_different_length_are_weighted_by_their_time(read: Read) -> None:
    reading = read([step(1, 0, 1000), step(2, 1000, 5000), wait(0, 1000), wait(1000, 1500), work(1500, 5000)])
    assert [share.starved_pct for _, share in reading.steps] == pytest.approx([100, 12.5])
    assert shares(reading) == pytest.approx((30, 30, 30))
    assert reading.overall.step_ms == pytest.approx(2.5)


def test_time_between_and_around_the_steps_does_not_count(read: Read) -> None:
    events = [step(1, 1000, 2000), step(2, 3000, 4000)]
    events += [wait(0, 1100), wait(1900, 3100), wait(3900, 9000)]  # 0.1 at each end of each step
    events += [work(500, 1050), work(1950, 3050), work(3950, 8000)]  # 0.05 at each end
    assert shares(read(events)) == pytest.approx((20, 90, 10))


def test_order_in_the_file_does_not_matter(read: Read) -> None:
    events = steps() + every(5, wait, 0, 400) + every(5, work, 300, 800)
    in_order = read(events)
    assert read(events[::-1]) == in_order
    assert read(sorted(events, key=lambda one: one["dur"])) == in_order


def test_work_on_two_streams_counts_once(read: Read) -> None:
    events = steps() + every(5, wait, 0, 100)
    events += every(5, lambda start, end: work(start, end, stream=7), 200, 600)
    events += every(5, lambda start, end: work(start, end, stream=20), 400, 700)
    events += every(5, lambda start, end: work(start, end, stream=21), 450, 500)
    assert shares(read(events)) == pytest.approx((10, 50, 10))


def test_nested_and_overlapping_waits_count_once(read: Read) -> None:
    events = steps() + every(5, wait, 0, 300) + every(5, wait, 100, 200) + every(5, wait, 250, 400)
    assert shares(read(events + every(5, work, 500, 1000))) == pytest.approx((40, 50, 40))


@pytest.mark.parametrize("cat", ["kernel", "Kernel", "gpu_memcpy", "Memcpy", "gpu_memset", "Memset"])
def test_kernels_copies_and_memsets_of_old_and_new_profilers_are_work(read: Read, cat: str) -> None:
    events = steps() + every(5, wait, 0, 400) + every(5, lambda start, end: work(start, end, cat), 300, 800)
    assert shares(read(events)) == pytest.approx((40, 50, 30))


@pytest.mark.parametrize("cat", ["gpu_user_annotation", "cuda_runtime", "Runtime", "cuda_sync", "overhead", "Trace"])
def test_other_categories_are_ignored(read: Read, cat: str) -> None:
    events = steps() + every(5, wait, 0, 400) + every(5, work, 300, 800)
    without = read(events)
    events += every(5, lambda start, end: work(start, end, cat), 0, 1000)
    events += every(5, lambda start, end: wait(start, end, cat=cat), 0, 1000)
    events += [step(3 + index, 1000 * index + 50, 1000 * index + 950, cat=cat) for index in range(5)]
    assert read(events) == without


def test_steps_and_waits_of_old_profilers(read: Read) -> None:
    events = [
        step(index, 1000 * index, 1000 * index + 1001, cat="Operator") for index in range(5)
    ]  # rounded separately
    events += every(5, lambda start, end: wait(start, end, cat="cpu_op"), 0, 400) + every(5, work, 300, 800)
    assert shares(read(events)) == pytest.approx((40, 50, 30), abs=0.1)


def test_copies_alone_are_distinguished_from_compute(read: Read) -> None:
    events = steps() + every(5, wait, 0, 1) + every(5, work, 0, 500)
    reading = read(events + every(5, lambda start, end: work(start, end, "gpu_memcpy"), 400, 1000))
    assert reading.copy_pct == pytest.approx(50)
    assert (reading.verdict.grade, reading.verdict.bottleneck) == ("fed", "host-to-device copy")


def test_waits_of_loaderlabs_own_runs_are_recognized(read: Read) -> None:
    events = steps() + every(5, lambda start, end: wait(start, end, "loaderlab/wait"), 0, 400)
    events += every(5, lambda start, end: wait(start, end, "loaderlab/transfer"), 400, 500)
    assert shares(read(events + every(5, work, 300, 800))) == pytest.approx((40, 50, 30))


@pytest.mark.parametrize("pattern", ["fetch", "FETCH_next", "my.fetch_next[0](x)", "*fetch*", "my.fetch?next[0]*"])
def test_waits_of_another_name(read: Read, pattern: str) -> None:
    events = steps() + every(5, lambda start, end: wait(start, end, "my.fetch_next[0](x)"), 0, 400)
    events += every(5, wait, 0, 900)  # does not match the pattern
    reading = read(events + every(5, work, 300, 800), wait=pattern)
    assert shares(reading) == pytest.approx((40, 50, 30))
    assert dict(reading.waits) == {"my.fetch_next[0](x)": 5}


def test_a_pattern_is_part_of_a_name_or_a_glob_not_a_regular_expression() -> None:
    assert wait_pattern("a.b").fullmatch("xxA.Bxx")
    assert not wait_pattern("a.b").fullmatch("axb")
    assert not wait_pattern("b*").fullmatch("ab")
    assert wait_pattern("a[1]*").fullmatch("a[1]2")
    assert not wait_pattern("auto").fullmatch("automatic")


def test_waits_of_another_thread_are_not_counted(read: Read) -> None:
    own = steps() + every(5, wait, 0, 100) + every(5, work, 500, 1000)
    other = every(5, lambda start, end: wait(start, end, tid=8), 0, 900)
    other += every(5, lambda start, end: wait(start, end, pid=8), 0, 900)
    assert shares(read(own + other)) == pytest.approx((10, 50, 10))
    reading = read([one for one in own if one["name"] != LOADER] + other)
    assert shares(reading) == pytest.approx((None, 50, None))
    assert "another thread reads PyTorch's DataLoader" in reading.verdict.because


def test_the_mean_of_several_devices_and_a_chosen_one(read: Read) -> None:
    events = steps() + every(5, wait, 0, 400)
    events += every(5, lambda start, end: work(start, end, device=0), 0, 1000)
    events += every(5, lambda start, end: work(start, end, device=1), 600, 1000)
    reading = read([*events, work(9000, 9999, device=2)])  # GPU 2 works outside the steps only
    assert shares(reading) == pytest.approx((40, 30, 20))
    assert [name for name, _ in reading.devices] == ["0", "1"]
    assert [share.idle_pct for _, share in reading.devices] == pytest.approx([0, 60])
    assert [share.starved_pct for _, share in reading.devices] == pytest.approx([0, 40])
    assert "mean over 2 GPUs" in reading.notes[0]
    assert "device=N" in reading.notes[0]
    assert shares(read(events, device=1)) == pytest.approx((40, 60, 40))
    assert read(events, device=0).verdict.grade == "fed"
    with pytest.raises(UserError, match="device=2: .* GPUs that work: 0, 1"):
        read(events, device=2)


def test_no_gpu_work_leaves_idle_unknown(read: Read) -> None:
    reading = read(steps() + every(5, wait, 0, 400))
    assert shares(reading) == pytest.approx((40, None, None))
    assert (reading.verdict.grade, reading.copy_pct, reading.devices) == ("inconclusive", None, ())
    assert "no GPU work" in reading.verdict.because
    assert "40.0 %" in reading.verdict.because
    assert all(share.idle_pct is None and share.starved_pct is None for _, share in reading.steps)


def test_no_steps_leaves_all_unknown(read: Read) -> None:
    for events in ([], every(5, wait, 0, 400) + every(5, work, 300, 800), [step(1, 0, 0)]):
        reading = read(events, wait=LOADER)
        assert (reading.overall.num_steps, reading.overall.step_ms, *shares(reading)) == (0, None, None, None, None)
        assert (reading.verdict.grade, reading.steps) == ("inconclusive", ())
        assert "prof.step()" in reading.verdict.because


def test_no_loader_range_leaves_waiting_unknown(read: Read) -> None:
    events = steps() + every(5, work, 300, 800)
    events += every(5, lambda start, end: wait(start, end, "dali_next"), 0, 400)
    events += every(3, lambda start, end: wait(start, end, "forward"), 400, 500)
    events += every(9, lambda start, end: wait(start, end, "aten::mm", "cpu_op"), 400, 500)
    for more in ([], [wait(7000, 8000)]):  # a validation loader after the steps does not count
        reading = read(events + more)
        assert shares(reading) == pytest.approx((None, 50, None))
        assert reading.verdict.grade == "inconclusive"
        assert "dali_next, forward" in reading.verdict.because
        assert "wait=NAME" in reading.verdict.because
        assert "aten" not in reading.verdict.because
    assert shares(read(events, wait="dali")) == pytest.approx((40, 50, 30))
    with pytest.raises(UserError, match="wait=dalli: .* dali_next, forward. Type for example: wait=dali_next"):
        read(events, wait="dalli")


def test_too_few_steps_are_inconclusive(read: Read) -> None:
    reading = read(steps(4) + every(4, wait, 0, 400) + every(4, work, 400, 1000))
    assert shares(reading) == pytest.approx((40, 40, 40))
    assert reading.verdict.grade == "inconclusive"
    assert "4 steps" in reading.verdict.because


def test_noise_across_a_grade_is_inconclusive(read: Read) -> None:
    events = steps(8) + [wait(1000 * index, 1000 * index + (900 if index == 2 else 1)) for index in range(8)]
    reading = read(events + every(8, work, 950, 1000))
    assert reading.verdict.grade == "inconclusive"
    assert "the confidence interval reaches from" in reading.verdict.because


def test_steps_of_several_processes_need_a_choice(read: Read) -> None:
    events = [step(index, 1000 * index, 1000 * index + 1000, pid=pid) for pid in (7, 9) for index in range(5)]
    events += every(5, wait, 0, 400) + every(5, work, 300, 800)
    events += every(5, lambda start, end: work(start, end, device=1), 0, 1000)
    with pytest.raises(UserError, match="2 processes, 7, 9"):
        read(events)
    with pytest.raises(UserError, match="Type for example: pid=7 device=0"):
        read(events, pid="7")
    with pytest.raises(UserError, match="pid=8: .* processes with steps: 7, 9"):
        read(events, pid="8")
    assert shares(read(events, pid="7", device=0)) == pytest.approx((40, 50, 30))


def test_steps_that_overlap_are_refused(read: Read) -> None:
    with pytest.raises(UserError, match="ProfilerStep#3 and ProfilerStep#3 .* overlap"):
        read([*steps(), step(3, 500, 1500)])
    assert read(steps() + steps()).overall.num_steps == 5  # duplicates are dropped


def test_invalid_times(read: Read) -> None:
    events = steps() + every(5, wait, 0, 400) + every(5, work, 300, 800)
    for key, value in (("ts", "17"), ("dur", None), ("ts", float("nan")), ("dur", True)):
        with pytest.raises(UserError, match=f"'kernel of something' has {key}="):
            read([*events, work(0, 1) | {key: value}])
    reading = read([*events, work(0, -1)])
    assert shares(reading) == pytest.approx((40, 50, 30))
    assert "left out: 1" in reading.notes[0]
    instants = [
        {key: value for key, value in one.items() if key != "dur"} | {"ph": "i"} for one in every(5, wait, 0, 9)
    ]
    assert read(events + instants).overall.wait_pct == pytest.approx(40)


def test_a_long_trace_shows_the_worst_steps(read: Read, tmp_path: Path, terminal: Terminal) -> None:
    events = steps(40) + [wait(1000 * index, 1000 * index + 10 * index) for index in range(40)]
    read(events + every(40, work, 500, 1000))
    report(TraceConfig(trace=str(tmp_path / "trace.json")), terminal)
    said = "\n".join(terminal.said)
    assert "│ 42 " in said
    assert "│ 22 " not in said
    assert "the table shows the 20 steps that lose the most time; the last row includes the other 20" in said
    assert "│ all 40 " in said


# ---- real traces -----------------------------------------------------------------------------------------------


class Slow(TensorDataset):
    """A dataset with slow items, so that the loop waits."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        torch.randn(30_000).sort()
        return tuple(tensor[index] for tensor in self.tensors)


def real_trace(path: Path, device: str, activities: list[ProfilerActivity], workers: int = 0) -> None:
    torch.manual_seed(0)
    loader = DataLoader(Slow(torch.randn(80, 8), torch.zeros(80)), batch_size=4, num_workers=workers)
    model = torch.nn.Linear(8, 1).to(device)
    plan = schedule(wait=2, warmup=2, active=10, repeat=1)
    with profile(
        activities=activities, schedule=plan, on_trace_ready=lambda prof: prof.export_chrome_trace(str(path))
    ) as prof:
        for inputs, targets in loader:
            with record_function("forward"):
                loss = (model(inputs.to(device))[:, 0] - targets.to(device)).square().mean()
            loss.backward()
            if device == "cuda":
                torch.cuda.synchronize()
            prof.step()


def test_a_real_trace_of_a_cpu(tmp_path: Path, terminal: Terminal) -> None:
    path = tmp_path / "real.pt.trace.json.gz"
    real_trace(path, "cpu", [ProfilerActivity.CPU])
    reading = read_trace(TraceConfig(trace=str(path)), terminal)
    all_events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    spent = {"ProfilerStep": 0.0, "enumerate(DataLoader)": 0.0}
    for one in all_events:
        for name in spent:
            if one["name"].startswith(name):
                spent[name] += one["dur"]
    assert [number for number, _ in reading.steps] == list(range(4, 14))
    assert reading.overall.step_ms == pytest.approx(spent["ProfilerStep"] / 10 / 1e3)
    expected = 100 * spent["enumerate(DataLoader)"] / spent["ProfilerStep"]
    assert reading.overall.wait_pct == pytest.approx(expected)
    assert 20 < expected < 100
    assert (reading.overall.idle_pct, reading.verdict.grade) == (None, "inconclusive")


@pytest.mark.gpu
def test_a_real_trace_of_a_gpu(tmp_path: Path, terminal: Terminal) -> None:
    path = tmp_path / "real.pt.trace.json"
    real_trace(path, "cuda", [ProfilerActivity.CPU, ProfilerActivity.CUDA])
    reading = read_trace(TraceConfig(trace=str(path)), terminal)
    wait_pct, idle_pct, starved_pct = shares(reading)
    assert wait_pct is not None
    assert idle_pct is not None
    assert starved_pct is not None
    assert [name for name, _ in reading.devices] == ["0"]
    assert 50 < idle_pct < 100  # a small model
    assert starved_pct <= min(wait_pct, idle_pct) + 1e-6
    assert (
        starved_pct > 0.9 * wait_pct
    )  # the device is done at the end of each step, so it is starved whenever the loop waits
    assert reading.verdict.grade in ("starved", "partly starved")


# ---- the command -----------------------------------------------------------------------------------------------


def test_only_json_on_stdout(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(steps() + every(5, wait, 0, 400) + every(5, work, 300, 800)))
    command = [sys.executable, "-m", "experiments.trace", f"trace={path}", "format=json"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    said = json.loads(done.stdout)
    share = {"step_ms": 1.0, "wait_pct": 40.0, "idle_pct": 50.0, "starved_pct": 30.0}
    assert (said["verdict"], said["bottleneck"]) == ("starved", "loader")
    assert said["overall"] == {"num_steps": 5, **share}
    assert said["steps"] == [{"step": number, "num_steps": 1, **share} for number in range(3, 8)]
    assert said["starved_interval_pct"] == [30.0, 30.0]
    assert done.stderr == ""


def run(*overrides: str) -> int:
    return start(overrides)


def test_what_is_unknown_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(steps() + every(5, wait, 0, 400)))
    run(f"trace={path}", "format=json")
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "inconclusive"
    assert said["bottleneck"] is None
    assert said["overall"] == {"num_steps": 5, "step_ms": 1.0, "wait_pct": 40.0, "idle_pct": None, "starved_pct": None}
    assert "no GPU work" in said["reason"]
    path.write_text("[]")
    run(f"trace={path}", "format=json")
    said = json.loads(capsys.readouterr().out)
    assert said["overall"] == dict.fromkeys(("step_ms", "wait_pct", "idle_pct", "starved_pct")) | {"num_steps": 0}
    assert said["steps"] == []


def test_the_table_and_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(steps() + every(5, wait, 0, 400) + every(5, work, 300, 800)))
    run(f"trace={path}")
    said = capsys.readouterr()
    assert "│ all 5 │   1.000 │          40.0 │          50.0 │      30.0 │" in said.out
    assert said.out.strip().splitlines()[-1].startswith("starved of data 30.0 % of the time (95 % CI 30.0 to 30.0)")
    assert said.err == ""


def test_help_lists_only_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    page = capsys.readouterr().out
    for text in ("experiments.trace trace=", "trace=???", "format=text", "wait=auto", "device=auto", "pid=auto"):
        assert text in page
    assert "loader=dali" not in page
    assert "batch_size" not in page


def test_help_needs_no_numpy() -> None:
    code = (
        "import atexit, runpy, sys; sys.argv = ['trace', '--help']\n"
        "atexit.register(lambda: print(sorted({'torch', 'mlflow', 'numpy', 'scipy'} & set(sys.modules))))\n"
        "runpy.run_module('experiments.trace', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


BAD = [  # overrides, texts that the message must contain
    ("", ["trace: a value is needed", "Type for example: trace=…"]),
    ("trace=nosuch.json", ["trace=nosuch.json: there is no such file", ".json.gz"]),
    ("trace=OK format=xml", ["format=xml", "text, json"]),
    ("trace=OK wait=", ["wait=:", "Type for example: wait=next_batch"]),
    ("trace=OK wait=nosuch", ["wait=nosuch", "no range", LOADER]),
    ("trace=OK device=one", ["device=one", "whole number or auto"]),
    ("trace=OK device=-1", ["device=-1", "at least 0"]),
    ("trace=OK device=3", ["device=3", "GPUs that work: 0", "device=0"]),
    ("trace=OK pid=3", ["pid=3", "processes with steps: 7", "pid=7"]),
    ("trace=OK waits=x", ["waits", "no such setting", "Did you mean wait?", "format"]),
    ("trace=OK +nosuch=1", ["nosuch", "no such setting", "wait"]),
    ("trace=OK loader=dali", ["loader", "no such setting", "wait"]),
    ("trace=OK wait=f(x)", ["wait=f(x)", "no range", LOADER]),
    ("trace=OK wait", ["wait: is not name=value", "trace --help"]),
    ("trace=OK -m", ["-m: is not name=value"]),
    ("trace=OK trace.x=1", ["trace.x", "no such setting"]),
    ("trace=OK,OK", ["there is no such file"]),
]


@pytest.mark.parametrize(("overrides", "expected"), BAD, ids=[overrides for overrides, _ in BAD])
def test_bad_input(
    overrides: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(steps() + every(5, wait, 0, 400) + every(5, work, 300, 800)))
    assert run(*overrides.replace("OK", str(path)).split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("\nerror: ")
    assert "Traceback" not in said.err
    for text in expected:
        assert text in said.err
    assert len(said.err.strip().splitlines()) <= 3
