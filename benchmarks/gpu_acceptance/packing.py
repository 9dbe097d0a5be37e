"""Packs the results of a folder into pieces of at most 16 MiB, and puts them back on another machine.

    python -m benchmarks.gpu_acceptance.packing pack DIR       # the results in outputs/gpu_acceptance as DIR/results.NNN
    python -m benchmarks.gpu_acceptance.packing unpack DIR     # back into outputs/gpu_acceptance

The pieces are a compressed archive, cut. DIR/results.json lists them with their checksums. The generated data is left out, because
every host generates it again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_acceptance.folder_lock import locked
from loaderlab.config import PROJECT, UserError
from loaderlab.system.files import atomic_file

PIECE_BYTES = 16 << 20
LIST, PIECE = "results.json", "results.{:03d}"
FOLDER = PROJECT / "outputs" / "gpu_acceptance"
LEFT_OUT = ("photos_", "outputs", "lock", ".")  # beginnings of names: generated data, checkpoints, locks


def pack(folder: Path, target: Path, piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """The files that contain the results of a folder; earlier pieces in the target are replaced.

    The list is removed first and written last: pieces without a list, or with an older one, are recognized as incomplete.

    Raises:
        UserError: there are no results, or the target cannot be written.
    """
    names = [path.name for path in sorted(folder.iterdir()) if _is_result(path.name)] if folder.is_dir() else []
    if not names:
        raise UserError(f"--folder {folder}: there are no results to pack")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in names:
            tar.add(folder / name, name)
    content = archive.getbuffer()
    pieces: list[Path] = []
    listed: list[dict[str, Any]] = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for old in (target / LIST, *target.glob("results.[0-9][0-9][0-9]")):
            old.unlink(missing_ok=True)
        for number, start in enumerate(range(0, len(content), piece_bytes)):
            piece = content[start : start + piece_bytes]
            pieces.append(target / PIECE.format(number))
            pieces[-1].write_bytes(piece)
            listed.append({"name": pieces[-1].name, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()})
        with atomic_file(target / LIST) as partial:
            partial.write_text(json.dumps({"pieces": listed}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    return [*pieces, target / LIST]


def _is_result(name: str) -> bool:
    return not name.startswith(LEFT_OUT)


def unpack(source: Path, folder: Path) -> list[str]:
    """The names in the folder that now come from the packed results; its generated data is kept.

    Raises:
        UserError: a piece is missing or damaged, or the folder has results that the packed ones do not contain. Nothing
            was changed.
    """
    content = b"".join(_checked_pieces(source))
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        _check_newer(tar, folder)
        for old in [
            path for path in folder.iterdir() if _is_result(path.name)
        ]:  # interrupted here, it can be typed again
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        tar.extractall(folder, filter="data")
        return sorted({name.partition("/")[0] for name in tar.getnames()})


def _checked_pieces(source: Path) -> list[bytes]:
    """The content of each piece, after a comparison with the list."""
    file = source / LIST
    if not file.exists():
        raise UserError(f"{file} is not there: it is written last, so the packed results are incomplete")
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["pieces"]
    except (ValueError, KeyError):
        raise UserError(f"{file} is damaged: copy the packed results again") from None
    if missing := [entry["name"] for entry in listed if not (source / entry["name"]).exists()]:
        raise UserError(
            f"{len(missing)} of {len(listed)} pieces are not in {source}: {', '.join(missing)}. Copy them, too"
        )
    pieces = []
    for entry in listed:
        pieces.append((source / entry["name"]).read_bytes())
        if hashlib.sha256(pieces[-1]).hexdigest() != entry["sha256"]:
            raise UserError(
                f"{source / entry['name']} is not the listed piece: {len(pieces[-1]):,} of {entry['bytes']:,} bytes, "
                "another checksum. Copy it again"
            )
    return pieces


def _check_newer(tar: tarfile.TarFile, folder: Path) -> None:
    """Checks that the folder has no run of a part that the packed results do not contain."""
    packed = {name: tar.extractfile(name) for name in tar.getnames() if name.endswith("/part.json")}
    begins = {name: _begins(file.read().decode()) for name, file in packed.items() if file is not None}
    for file in sorted(folder.glob("[!.]*/part.json")):
        known = begins.get(file.relative_to(folder).as_posix(), [])
        if lost := [began for began in _begins(file.read_text(encoding="utf-8")) if began not in known]:
            raise UserError(
                f"{folder} has results that the packed ones do not contain: {file.parent.name}, measured {lost[-1]}. "
                f"Unpack into another folder: --folder {folder}_2"
            )


def _begins(part: str) -> list[str]:
    """When each run in a ``part.json`` began."""
    return [turn["began"] for turn in json.loads(part)["turns"]]


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_acceptance.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("place", type=Path, metavar="DIR", help="the folder of the pieces")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="the folder of the results (outputs/gpu_acceptance)"
    )
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    try:
        with locked(folder):
            if chosen.action == "pack":
                pieces = pack(folder, chosen.place)
                size = sum(piece.stat().st_size for piece in pieces)
                print(f"packed: {len(pieces) - 1} pieces, {size:,} bytes, in {chosen.place}")
            else:
                print(f"unpacked into {folder}: {', '.join(unpack(chosen.place, folder))}")
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
