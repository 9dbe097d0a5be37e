"""The file of a sampler: what belongs to which stack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loaderlab.lines.stacks import OWN_FILE, Frame, Recording, read

A, B = ("/data/a.py", 3, "load"), ("/data/b.py", 7, "__call__")


def stack(*frames: tuple[str, int, str]) -> str:
    """As faulthandler writes it: the innermost frame first."""
    lines = [f'  File "{file}", line {line} in {function}' for file, line, function in frames]
    return "\n".join(["Stack (most recent call first):", *lines]) + "\n"


def entry(*values: object) -> str:
    return "@" + json.dumps(values) + "\n"


def recorded(tmp_path: Path, text: str, ticks: str = "") -> Recording:
    (tmp_path / "0-1.stacks").write_text(text, encoding="utf-8")
    (tmp_path / "0-1.ticks").write_text(ticks, encoding="utf-8")
    return read(tmp_path / "0-1.stacks")


def test_time_belongs_to_the_stacks_since_the_last_entry_in_equal_parts(tmp_path: Path) -> None:
    text = entry("ready") + stack(A) + entry("begin", 100, 10)
    text += stack(A) + entry("times", 110, 12, 1, 2, []) + stack(A) + stack(B, A) + entry("times", 150, 20, 3, 2, [])
    samples = recorded(tmp_path, text).samples
    assert [(entry.begin_ns, entry.end_ns) for entry in samples] == [(100, 110), (110, 130), (130, 150)]
    assert [frame.file for frame in samples[2].stack] == ["/data/a.py", "/data/b.py"]  # the outermost first


def test_the_cost_has_a_part_for_each_stack(tmp_path: Path) -> None:
    text = entry("begin", 0, 0) + stack(A) + stack(A) + entry("times", 10, 4, 3, 2, [])
    whole = recorded(tmp_path, text)
    assert (whole.cost_ns, whole.cpu_ns) == (3 + 2 * 2, 4)


def test_the_state_of_a_thread_is_that_of_the_tick_before_the_stack(tmp_path: Path) -> None:
    text = entry("begin", 100, 0) + stack(A) + entry("times", 110, 0, 0, 0, [])
    text += stack(A) + entry("times", 120, 0, 0, 0, [])
    samples = recorded(tmp_path, text, "99 S 3\n109 R 1\n119 S 0\n").samples
    assert [(entry.computing, entry.others) for entry in samples] == [(1.0, 1.0), (0.0, 0.0)]


def test_ticks_whose_signals_arrived_as_one_count_in_their_mean(tmp_path: Path) -> None:
    text = entry("begin", 100, 0) + stack(A) + entry("times", 130, 0, 0, 0, [])
    samples = recorded(tmp_path, text, "110 R 0\n120 S 0\n").samples
    assert [entry.computing for entry in samples] == [0.5]


def test_other_threads_and_the_profiler_are_left_out(tmp_path: Path) -> None:
    thread = stack(A, ("/lib/threading.py", 1, "_bootstrap"))
    handler = stack((OWN_FILE, 5, "_ticked"), A)
    text = entry("begin", 0, 0) + thread + entry("times", 10, 0, 0, 0, []) + handler + entry("times", 20, 0, 0, 0, [])
    (sample,) = recorded(tmp_path, text).samples
    assert (sample.begin_ns, sample.end_ns, sample.stack) == (0, 20, (Frame(*A),))


def test_a_called_object_has_the_class_that_was_seen_in_this_stack(tmp_path: Path) -> None:
    text = (
        entry("begin", 0, 0) + entry("owner", B[0], 5, 9, "Crop", "Base") + entry("owner", B[0], 5, 9, "Flip", "Base")
    )
    text += stack(B, A) + entry("times", 10, 0, 0, 0, [1]) + stack(B, A) + entry("times", 20, 0, 0, 0, [])
    first, second = recorded(tmp_path, text).samples
    assert first.stack[-1].owner == "Flip"
    assert second.stack[-1].owner == "Base"  # which of the two is not known: the class that defines the function


def test_an_incomplete_entry_is_ignored(tmp_path: Path) -> None:
    text = entry("begin", 0, 0) + stack(A) + entry("times", 10, 0, 0, 0, []) + stack(A) + '@["times", 20'
    assert len(recorded(tmp_path, text, "5 R 0\n15 R").samples) == 1


@pytest.mark.parametrize("name", ["bild_\xe9.py", "\u65e5.py", "a, line 3 in b.py"])
def test_names_are_as_they_were(tmp_path: Path, name: str) -> None:
    escaped = name.encode("ascii", "backslashreplace").decode()
    text = entry("begin", 0, 0) + stack((f"/data/{escaped}", 3, "f")) + entry("times", 10, 0, 0, 0, [])
    assert recorded(tmp_path, text).samples[0].stack == (Frame(f"/data/{name}", 3, "f"),)


def test_a_problem_is_kept(tmp_path: Path) -> None:
    assert recorded(tmp_path, entry("problem", "in use")) == Recording(problem="in use")


def test_a_worker_that_a_thread_has_forked_is_no_thread(tmp_path: Path) -> None:
    thread = ("/lib/threading.py", 1, "_bootstrap")
    text = entry("begin", 0, 0) + stack(A, ("/torch/_utils/worker.py", 9, "_worker_loop"), thread)
    assert recorded(tmp_path, text + entry("times", 10, 0, 0, 0, [])).samples[0].stack[-1].file == "/data/a.py"


def test_an_entry_that_a_full_disk_has_cut_off_is_ignored(tmp_path: Path) -> None:
    text = entry("begin", 0, 0) + stack(A) + '@["times", 5\n' + stack(A) + entry("times", 10, 0, 0, 0, [])
    assert len(recorded(tmp_path, text).samples) == 2


def test_a_stack_gets_the_time_until_its_tick(tmp_path: Path) -> None:
    """In a long call of C, the sampler's entry comes only at its end."""
    text = (
        entry("begin", 100, 0)
        + stack(A)
        + entry("times", 190, 0, 0, 0, [])
        + stack(B, A)
        + entry("times", 200, 0, 0, 0, [])
    )
    samples = recorded(tmp_path, text, "99 S 0\n140 R 0\n199 R 0\n").samples
    assert [(entry.begin_ns, entry.end_ns) for entry in samples] == [(99, 140), (140, 199)]
