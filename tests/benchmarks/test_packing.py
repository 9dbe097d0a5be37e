"""The results of the acceptance run travel in pieces and come back whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from benchmarks.gpu_acceptance import packing
from loaderlab.config import UserError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with results that need several pieces of 1,000 bytes, and generated data."""
    folder = tmp_path / "results"
    (folder / "fed").mkdir(parents=True)
    (folder / "fed" / "part.json").write_text(json.dumps({"turns": [{"began": "one"}]}))
    (folder / "artifacts" / "a run").mkdir(parents=True)
    (folder / "artifacts" / "a run" / "steps.csv").write_bytes(os.urandom(5000))  # not compressible
    (folder / "mlflow.db").write_bytes(b"\0tables")
    (folder / "photos_12").mkdir()
    (folder / "photos_12" / "0.jpg").touch()
    (folder / "outputs").mkdir()
    (folder / "outputs" / "checkpoint.pt").touch()
    (folder / "lock").touch()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_round_trip(results: Path, tmp_path: Path) -> None:
    *pieces, listed = packing.pack(results, tmp_path / "out", 1000)
    assert len(pieces) > 5
    assert max(piece.stat().st_size for piece in pieces) == 1000
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in [*pieces, listed]}
    names = packing.unpack(tmp_path / "out", tmp_path / "back")
    assert names == ["artifacts", "fed", "mlflow.db"]
    results_only = {
        name: text for name, text in contents(results).items() if not name.startswith(("photos", "outputs", "lock"))
    }
    assert contents(tmp_path / "back") == results_only


def test_pieces_are_16_mib() -> None:
    assert packing.PIECE_BYTES == 16 * 2**20


def test_the_results_continue_in_place(results: Path, tmp_path: Path) -> None:
    """Unpacked over the folder of an earlier sitting, results are replaced and generated data is kept."""
    shutil.copytree(results, tmp_path / "here")
    (tmp_path / "here" / "mlflow.db-journal").write_text("of the older store")
    (results / "fed" / "part.json").write_text(json.dumps({"turns": [{"began": "one"}, {"began": "two"}]}))
    packing.pack(results, tmp_path / "out")
    packing.unpack(tmp_path / "out", tmp_path / "here")
    assert contents(tmp_path / "here") == contents(results)


def test_fewer_pieces_replace_more(results: Path, tmp_path: Path) -> None:
    packing.pack(results, tmp_path / "out", 1000)
    packing.pack(results, tmp_path / "out", 100_000)
    assert len(list((tmp_path / "out").iterdir())) == 2
    packing.unpack(tmp_path / "out", tmp_path / "back")


def remove_piece(out: Path) -> None:
    (out / "results.002").unlink()


def cut_piece(out: Path) -> None:
    (out / "results.002").write_bytes((out / "results.002").read_bytes()[:-1])


def change_piece(out: Path) -> None:
    piece = bytearray((out / "results.002").read_bytes())
    piece[10] ^= 1
    (out / "results.002").write_bytes(piece)


def remove_list(out: Path) -> None:
    (out / "results.json").unlink()


def damage_list(out: Path) -> None:
    (out / "results.json").write_text('{"pieces": [')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_piece, "1 of [0-9]+ pieces are not in .*: results.002. Copy them, too"),
        (cut_piece, "results.002 is not the listed piece: 999 of 1,000 bytes"),
        (change_piece, "results.002 is not the listed piece: 1,000 of 1,000 bytes, another checksum. Copy it again"),
        (remove_list, "results.json is not there: it is written last, so the packed results are incomplete"),
        (damage_list, "results.json is damaged: copy the packed results again"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_incomplete_pieces_change_nothing(damage: object, message: str, results: Path, tmp_path: Path) -> None:
    packing.pack(results, tmp_path / "out", 1000)
    assert callable(damage)
    damage(tmp_path / "out")
    before = contents(results)
    with pytest.raises(UserError, match=message):
        packing.unpack(tmp_path / "out", results)
    assert contents(results) == before


def test_newer_results_are_not_replaced(results: Path, tmp_path: Path) -> None:
    packing.pack(results, tmp_path / "out")
    (results / "fed" / "part.json").write_text(json.dumps({"turns": [{"began": "one"}, {"began": "two"}]}))
    before = contents(results)
    with pytest.raises(UserError, match="results that the packed ones do not contain: fed, measured two. .*_2"):
        packing.unpack(tmp_path / "out", results)
    assert contents(results) == before


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no results to pack"):
        packing.pack(tmp_path / "nosuch", tmp_path / "out")
    (tmp_path / "file").touch()
    (tmp_path / "results" / "fed").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written: File exists"):
        packing.pack(tmp_path / "results", tmp_path / "file")


def test_the_command(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
        return packing.main()

    assert run("pack", tmp_path / "out", "--folder", results) == 0
    assert "packed: 1 pieces" in capsys.readouterr().out
    assert run("unpack", tmp_path / "out", "--folder", tmp_path / "back") == 0
    assert f"unpacked into {tmp_path / 'back'}: artifacts, fed, mlflow.db" in capsys.readouterr().out
    assert run("unpack", tmp_path / "nosuch", "--folder", tmp_path / "back") == 1
    assert capsys.readouterr().err.startswith("error: ")
    with FileLock(results / "lock"):
        assert run("pack", tmp_path / "out", "--folder", results) == 1
    assert "another run uses" in capsys.readouterr().err
