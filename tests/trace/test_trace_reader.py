"""The reader of trace files: every format, in chunks of any size; other files are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from loaderlab.config import UserError
from loaderlab.trace import reader as module
from loaderlab.trace.reader import events

EVENTS: list[dict[str, Any]] = [
    {
        "ph": "X",
        "cat": "cpu_op",
        "name": 'a "quoted" {name], ünï',
        "ts": 4562149577595.086,
        "dur": 1.5e-3,
        "args": {"n": -7},
    },
    {"ph": "M", "name": "process_name", "args": {"deep": [[1, {"x": None}], [], {}], "b": [True, False]}},
    {"ph": "X", "cat": "kernel", "name": "\\", "ts": 1, "dur": 2, "args": {"id": 18446744073709551615}},
]
WHOLE = {
    "schemaVersion": 1,
    "deviceProperties": [{"id": 0, "x": "]}"}],
    "n": 12,
    "traceEvents": EVENTS,
    "traceName": "t",
}


def read(path: Path) -> list[dict[str, Any]]:
    return list(events(path, lambda _: None))


def written(tmp_path: Path, data: str | bytes, name: str = "trace.json") -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_same_events_with_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    for whole in (WHOLE, {"traceEvents": EVENTS}, EVENTS):
        for ascii_only in (True, False):
            text = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)
            assert read(written(tmp_path, text)) == EVENTS
            assert read(written(tmp_path, "\ufeff \n" + text + "\n")) == EVENTS
            assert read(written(tmp_path, gzip.compress(text.encode()))) == EVENTS  # recognized by its first bytes


def test_a_trace_without_events_is_not_an_error(tmp_path: Path) -> None:
    for text in ("[]", '{"traceEvents": []}', '{"traceEvents": [ ], "x": 1}'):
        assert read(written(tmp_path, text)) == []


def test_progress_reaches_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    path = written(tmp_path, json.dumps(WHOLE))
    seen: list[int] = []
    list(events(path, seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == path.stat().st_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"ph":"X","args":{"memory bandwidth (GB/s)": inf, "b": -inf,"c":nan}}]', {"b": None, "c": None}),
        ('[{"ph":"X","args":{"est. achieved occupancy %": N/A}}]', {"est. achieved occupancy %": None}),
        ('[{"ph":"X","args":{"b": Infinity}}]', {"b": float("inf")}),
        ('[{"ph":"X","args":{"b": "line\nbreak\x01"}}]', {"b": "line\nbreak\x01"}),
    ],
)
def test_invalid_json_that_real_profilers_write(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    (event,) = read(written(tmp_path, text))
    assert event["args"].items() >= expected.items()


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (event,) = read(written(tmp_path, b'[{"ph":"X","name":"a\xff\xfeb"}]'))
    assert event["name"] == "a\ufffd\ufffdb"


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_cut_off_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    for text in (json.dumps(WHOLE), json.dumps(EVENTS, indent=1)):
        for length in range(1, len(text), 1 if chunk > 5 else 11):
            with pytest.raises(UserError, match="cut off"):
                read(written(tmp_path, text[:length]))


def test_cut_off_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(WHOLE).encode())
    for length in range(3, len(packed)):
        with pytest.raises(UserError, match="cut off"):
            read(written(tmp_path, packed[:length]))


BAD: list[tuple[bytes, str]] = [
    (b"", "is empty"),
    (b"   \n", "is not valid JSON"),
    (b"hello", "is not valid JSON from character 0"),
    (b"\x00\x01\x02\x7fELF", "is not valid JSON"),
    (b"3", "is not valid JSON"),
    (b"{}", "no traceEvents"),
    (b'{"a": 1}', "no traceEvents"),
    (b'{"traceEvents": {"a": 1}}', "no traceEvents"),
    (b'{"a": {"traceEvents": []}}', "no traceEvents"),
    (b"[1, 2]", "not of profiler events"),
    (b'[{"a": 1}]', "not of profiler events"),
    (b'{"traceEvents": [{"a": x}], "b": "' + b"c" * 99 + b'"}', "is not valid JSON from character 23"),
    (b'{"traceEvents": [{"a": 1} {"b": 2}]}', "is not valid JSON from character 26"),
    (b'[{"ph": "X", "name": "a "quoted" name"}]', "is not valid JSON"),
    (b'{"traceEvents": []} rest', "is not valid JSON from character 20"),
    (b"[" * 9999, "is not valid JSON"),
    (b"\x1f\x8bno gzip at all", "is damaged"),
    (gzip.compress(b"[]" + b" " * 99)[:-8] + b"\x00" * 8, "is damaged"),
]


@pytest.mark.parametrize(("data", "expected"), BAD, ids=[expected for _, expected in BAD])
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_files_that_are_not_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, expected: str, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    path = written(tmp_path, data)
    with pytest.raises(UserError) as refused:
        read(path)
    assert str(refused.value).startswith(f"trace={path}: ")
    assert expected in str(refused.value)
    assert ".json.gz" in str(refused.value)


def test_a_value_without_end_is_refused_before_memory_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 100)
    monkeypatch.setattr(module, "LONGEST", 1000)
    with pytest.raises(UserError, match="is not valid JSON"):
        read(written(tmp_path, '{"a": "' + "b" * 9000))


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read(tmp_path / "nosuch.json")
    with pytest.raises(UserError, match="is a folder.*trace="):
        read(tmp_path)
    inside = written(tmp_path, "[]", "rank0.pt.trace.json")
    with pytest.raises(UserError, match=f"Type for example: trace={inside}"):
        read(tmp_path)
