"""The file system of a path, from a table of mounts."""

from __future__ import annotations

from pathlib import Path

from loaderlab.system.file_systems import file_system_of


def test_the_innermost_mount_counts_and_a_later_one_hides_an_earlier(tmp_path: Path) -> None:
    data, sibling = tmp_path / "data", tmp_path / "data 2"
    data.mkdir()
    sibling.mkdir()
    real = tmp_path.resolve()
    spaced = str(real / "data 2").replace(" ", "\\040")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/vda / ext4 rw 0 0\nserver:/x {real}/data nfs rw 0 0\nserver:/y {real}/data nfs4 rw 0 0\nnone {spaced} tmpfs rw 0 0\n"
    )
    assert [file_system_of(path, mounts) for path in (tmp_path, data, sibling)] == ["ext4", "nfs4", "tmpfs"]
    assert file_system_of(tmp_path / "missing", mounts) == ""
    assert file_system_of(tmp_path, tmp_path / "no table") == ""
