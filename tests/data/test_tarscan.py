"""Incomplete tar files: each cut is reported, or no sample is missing."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaderlab import data
from loaderlab.config import TransformConfig, WebDatasetData
from loaderlab.data.spec import DataError
from loaderlab.data.tarscan import scan
from tests.conftest import write_tar

NUM_SAMPLES = 4
SAMPLE_BYTES = 4 * 512  # two members of one block each, with their headers
END = NUM_SAMPLES * SAMPLE_BYTES


def members(num_samples: int = NUM_SAMPLES) -> list[tuple[str, bytes]]:
    return [(f"{number // 2}.{('jpg', 'cls')[number % 2]}", b"0" * 300) for number in range(2 * num_samples)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.tar"
    write_tar(path, members())
    assert len(scan(str(path))) == NUM_SAMPLES
    return path.read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error:
        scan(str(path))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: not a complete, uncompressed tar file: ")
    return message


@pytest.mark.parametrize(
    ("num_bytes", "why"),
    [
        (0, "empty file"),
        (100, "truncated header"),
        (2 * SAMPLE_BYTES, f"it ends at byte {2 * SAMPLE_BYTES} without an end-of-archive block"),
        (2 * SAMPLE_BYTES + 100, f"it ends inside the header at byte {2 * SAMPLE_BYTES}"),
        (2 * SAMPLE_BYTES + 512, "unexpected end of data after member '2.jpg'"),
        (2 * SAMPLE_BYTES + 700, "unexpected end of data after member '2.jpg'"),
        (END, f"it ends at byte {END} without an end-of-archive block"),
        (END + 511, f"it ends inside the header at byte {END}"),
    ],
)
def test_a_cut_is_reported(num_bytes: int, why: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(whole[:num_bytes])
    message = refused(path)
    assert why in message
    assert message.endswith("Download or copy it again")


def test_a_set_with_a_cut_file_is_refused(whole: bytes, tmp_path: Path) -> None:
    for name, num_bytes in (("a.tar", None), ("b.tar", 3 * SAMPLE_BYTES)):
        (tmp_path / name).write_bytes(whole[:num_bytes])
    config = WebDatasetData(shards=str(tmp_path), transform=TransformConfig(image_size=16))
    with pytest.raises(DataError, match=r"b\.tar: not a complete, uncompressed tar file"):
        data.build(config, lambda *_: None)
    assert not (tmp_path / "b.idx").exists()


def test_the_command_in_the_message_repairs_a_file_without_an_end(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "it's a.tar"
    path.write_bytes(whole[:END])
    command = re.search(r"type: (truncate .*)\)\. ", refused(path))
    assert command is not None
    subprocess.run(command[1], shell=True, check=True)
    assert len(scan(str(path))) == NUM_SAMPLES


def test_a_damaged_header_in_the_middle_is_reported(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(whole[: 2 * SAMPLE_BYTES] + b"\xff" * 8 + whole[2 * SAMPLE_BYTES + 8 :])
    assert f"the header at byte {2 * SAMPLE_BYTES} is damaged" in refused(path)


def test_an_extended_header_that_tarfile_cannot_read_is_reported(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a.jpg")
    entry.pax_headers = {"GNU.sparse.map": "x"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry)
    assert "invalid literal for int" in refused(tmp_path / "a.tar")


def test_a_hole_of_zeros_and_joined_files_are_reported(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(whole[: 2 * SAMPLE_BYTES] + bytes(1024) + whole[2 * SAMPLE_BYTES + 1024 :])
    assert "there is more data after" in refused(path)
    path.write_bytes(whole + whole)
    assert "as in several tar files joined by cat" in refused(path)


def reported(path: Path) -> str | None:
    """The error message of a scan; None if there is no error."""
    try:
        scan(str(path))
    except DataError as error:
        return str(error)
    return None


@given(num_bytes=st.integers(0, 10_240))
def test_property_every_cut_is_reported_or_no_sample_is_missing(
    num_bytes: int, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.tar"
    path.write_bytes(whole[:num_bytes])
    message = reported(path)
    assert (message is None) == (num_bytes >= END + 512)
    if message is None:
        assert len(scan(str(path))) == NUM_SAMPLES
    else:
        assert str(path) in message
        assert "\n" not in message


FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@given(kind=FORMATS, name=st.text("abé/", min_size=1, max_size=4), at=st.floats(0, 1), byte=st.integers(0, 255))
def test_property_damage_is_a_data_error_of_one_line(
    kind: int, name: str, at: float, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Headers of all formats, some with long names. One byte is changed, or the file is cut there."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for number in range(3):
            entry = tarfile.TarInfo("x" * 60 * (number % 2) + f"{name}{number}.jpg")
            entry.size = 5
            tar.addfile(entry, io.BytesIO(b"12345"))
    content = bytearray(out.getvalue())
    content[round(at * (len(content) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    for part in (content, content[: round(at * len(content))]):
        path.write_bytes(part)
        assert "\n" not in (reported(path) or "")


def test_a_name_that_comes_twice_in_a_row_is_refused(tmp_path: Path) -> None:
    """The second would replace the first, and a sample would be missing."""
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "a.cls", "a.jpg", "a.cls"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match=r"twice\.tar: a sample has two members named 'a\.jpg'"):
        scan(str(path))


def test_members_of_hidden_folders_belong_to_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "notebook.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("./cat/0.jpg", "./cat/.ipynb_checkpoints/0.jpg", "../cat/1.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert len(scan(str(path))) == 2


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["", "a/", "a/b/", ".h/", "a/.h/b/", "./", "../", "..a/"]),
        st.sampled_from(["0", "1", "é", "日", ".dot", "a b", "%#?"]),
        st.sampled_from(["jpg", "cls", "seg.png", "J P", ""]),
    ),
    max_size=8,
)


def expected_samples(entries: list[tuple[str, str, str]]) -> list[set[str]] | None:
    """The extensions of each sample; None if a sample has the same extension twice."""
    samples: list[tuple[str, set[str]]] = []
    for folder, base, extension in entries:
        if base == ".dot" or ".h" in folder or "..a" in folder:
            continue
        if not samples or samples[-1][0] != folder + base:
            samples.append((folder + base, set()))
        if extension in samples[-1][1]:
            return None
        samples[-1][1].add(extension)
    return [extensions for _, extensions in samples]


@given(entries=MEMBERS)
def test_property_doubled_names_are_refused_and_hidden_folders_left_out(
    entries: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "members.tar"
    write_tar(path, [(f"{folder}{base}.{extension}", b"0") for folder, base, extension in entries])
    expected = expected_samples(entries)
    if expected is None:
        with pytest.raises(DataError, match="a sample has two members named") as error:
            scan(str(path))
        assert "\n" not in str(error.value)
    else:
        assert [set(sample) for sample in scan(str(path))] == expected
