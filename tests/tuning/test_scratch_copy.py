"""The copy of the working folder in which a trial of a script runs, and the files that it only links."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from loaderlab.attach.script import Program
from loaderlab.config import UserError
from loaderlab.tuning import scratch_copy
from loaderlab.tuning.scratch_copy import copied, linked_text, planned
from loaderlab.tuning.script_engine import inside

OUTSIDE = {  # links, with their targets
    "checkpoints": "../checkpoints",
    "last.pt": "../checkpoints/last.pt",
    "missing.pt": "../checkpoints/missing.pt",
    "pictures": "images",
    "large.bin": "big.bin",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch_copy, "COPIED_BYTES", 100)
    monkeypatch.setattr(scratch_copy, "MANY", 5)
    folder = tmp_path / "project"
    for path, size in {
        "train.py": 10,
        "package/data.py": 20,
        "big.bin": 90,
        ".git/config": 5,
        "images/0.png": 1,
        ".venv/pyvenv.cfg": 1,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x" * size)
    for number in range(6):
        (folder / "images" / f"{number}.png").write_bytes(b"x")
    (folder / "link.py").symlink_to("train.py")
    return folder


def copy_of(folder: Path) -> Path:
    target = folder.parent / "copy"
    copied(folder, planned(folder), target)
    return target


def test_small_files_are_copied_and_the_rest_is_linked(folder: Path) -> None:
    target = copy_of(folder)
    (target / "train.py").write_text("changed")
    (target / "package" / "new.txt").write_text("new")
    assert (folder / "train.py").read_bytes() == b"x" * 10
    assert not (folder / "package" / "new.txt").exists()
    assert (target / "big.bin").readlink() == folder / "big.bin"
    assert (target / "images").is_symlink()
    assert (target / ".venv").is_symlink()
    assert not (target / ".git").exists()


def test_a_link_to_what_is_copied_leads_to_the_copy(folder: Path) -> None:
    (folder / "latest").symlink_to(folder / "package")  # absolute
    (folder / "package" / "same.py").symlink_to("../train.py")
    (folder / "next").symlink_to("runs/1")  # is not there yet
    target = copy_of(folder)
    (target / "link.py").write_text("changed")
    (target / "latest" / "data.py").write_text("changed")
    (target / "runs" / "1").mkdir(parents=True)
    (target / "next" / "new.txt").write_text("new")
    assert (target / "package" / "same.py").read_text() == (target / "train.py").read_text() == "changed"
    assert (target / "package" / "data.py").read_text() == "changed"
    assert (target / "runs" / "1" / "new.txt").exists()
    assert (folder / "train.py").read_bytes() == b"x" * 10
    assert (folder / "package" / "data.py").read_bytes() == b"x" * 20
    assert not (folder / "runs").exists()


def test_a_link_to_what_is_not_copied_is_linked_itself(folder: Path) -> None:
    (folder.parent / "checkpoints").mkdir()
    for path, destination in OUTSIDE.items():
        (folder / path).symlink_to(destination)
    plan = planned(folder)
    assert plan.linked_folders[2:] == ("checkpoints", "pictures")
    assert plan.linked_files[1:] == ("large.bin", "last.pt", "missing.pt")
    assert plan.links == (("link.py", "train.py"),)


def test_what_is_linked_is_said(folder: Path) -> None:
    assert linked_text(planned(folder)).endswith(": .venv/, images/, big.bin")
    assert linked_text(planned(folder / "package")) == ""


def test_a_folder_with_too_many_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_copy, "MOST", 3)
    with pytest.raises(UserError, match="has more than 3 files(.*)start the command in the folder of your program"):
        planned(folder)


def test_a_folder_that_cannot_be_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(entry: object) -> bool:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "big.bin")

    monkeypatch.setattr(scratch_copy, "_walk", lambda *_: map(vanished, [None]))
    with pytest.raises(UserError, match=r"the working folder cannot be copied: (.*)big\.bin"):
        planned(folder)


THROUGH_LINKS = """
import sys
from pathlib import Path
from loaderlab.tuning.linked_files import LinkedFiles
files, folders = (tuple(names.split(",")) for names in sys.argv[1:])
LinkedFiles(Path.cwd(), files, folders).watch()
for name in ("last.pt", "missing.pt", "large.bin"):
    with open(name, "a") as file:
        file.write("new")
for path in ("checkpoints/last.pt", Path("checkpoints").resolve() / "last.pt", "pictures/new.png"):
    try:
        open(path, "w")
    except PermissionError as error:
        assert "loaderlab tune has linked this folder" in str(error), path
    else:
        print(path)
Path("new").mkdir()  # a link to /tmp contains this folder
"""


def test_a_trial_changes_nothing_through_a_symbolic_link(folder: Path) -> None:
    """A checkpoint on another disk is the user's real one."""
    outside = folder.parent / "checkpoints"
    outside.mkdir()
    (outside / "last.pt").write_text("state")
    for path, destination in {**OUTSIDE, "parent": ".."}.items():
        (folder / path).symlink_to(destination)
    plan, copy = planned(folder), copy_of(folder)
    ended = subprocess.run(
        [sys.executable, "-c", THROUGH_LINKS, ",".join(plan.linked_files), ",".join(plan.linked_folders)],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("", "")
    assert [path.name for path in outside.iterdir()] == ["last.pt"]
    assert (outside / "last.pt").read_text() == "state"
    assert (folder / "big.bin").read_bytes() == b"x" * 90
    assert not (folder / "images" / "new.png").exists()
    assert [(copy / name).read_text() for name in ("last.pt", "missing.pt")] == ["statenew", "new"]


WRITER = """
import os, sqlite3, sys
from pathlib import Path
from loaderlab.tuning.linked_files import LinkedFiles
LinkedFiles(Path.cwd(), ["big.bin"], ["images"]).watch()
what = sys.argv[1]
if what == "write":
    open("big.bin", "w").write("new")
elif what == "append":
    open("big.bin", "a").write("new")
elif what == "read":
    assert len(open("big.bin").read()) == 90
elif what == "database":
    sqlite3.connect("big.bin").close()
elif what == "rename":
    os.rename("big.bin", "other.bin")
    os.truncate("other.bin", 30)
elif what == "exists":
    os.makedirs("images", exist_ok=True)
    Path("images").mkdir(exist_ok=True)
elif what == "folder":
    open("images/new.png", "w")
"""


def writer(copy: Path, what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITER, what], cwd=copy, capture_output=True, text=True, timeout=60, check=False
    )


CHANGES = {  # each is refused
    "remove": "os.remove('images/0.png')",
    "remove bytes": "os.remove(b'images/0.png')",
    "unlink": "Path('images/0.png').unlink()",
    "remove what a pattern finds": "[os.remove(path) for path in glob.glob('images/*.png')]",
    "remove the original": "Path('images').resolve().joinpath('0.png').unlink()",
    "remove in a directory": "os.remove('0.png', dir_fd=os.open('images', os.O_RDONLY))",
    "rename": "os.rename('images/0.png', 'images/a.png')",
    "move out": "shutil.move('images/0.png', 'a.png')",
    "move in": "os.replace('train.py', 'images/0.png')",
    "rename the folder": "os.rename('images', 'pictures')",
    "make a folder": "os.mkdir('images/new')",
    "remove a folder": "os.rmdir('images/empty')",
    "remove a tree": "shutil.rmtree('images/empty', ignore_errors=True)",
    "truncate": "os.truncate('images/0.png', 0)",
    "hard link": "os.link('images/0.png', 'a.png')",
    "symbolic link": "os.symlink('train.py', 'images/a.png')",
}
CHANGER = """
import glob, os, shutil, sys
from pathlib import Path
from loaderlab.tuning.linked_files import LinkedFiles
LinkedFiles(Path.cwd(), ["big.bin"], ["images", ".venv"]).watch()
for name, code in CHANGES.items():
    try:
        exec(code)
    except PermissionError as error:
        assert "loaderlab tune has linked this folder" in str(error), name
    else:
        print(name)
"""


def test_a_trial_changes_nothing_in_a_linked_folder(folder: Path) -> None:
    """A script that prunes its checkpoints must not remove the user's files."""
    (folder / "images" / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-c", f"CHANGES = {CHANGES!r}\n{CHANGER}"],
        cwd=copy_of(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("", "")
    assert sorted(folder.rglob("*")) == before
    assert (folder / "images" / "0.png").read_bytes() == b"x"


def test_a_linked_file_becomes_a_copy_when_it_is_renamed_or_truncated(folder: Path) -> None:
    copy = copy_of(folder)
    ended = writer(copy, "rename")
    assert ended.returncode == 0, ended.stderr
    assert (folder / "big.bin").read_text() == "x" * 90
    assert (copy / "other.bin").read_text() == "x" * 30
    assert not (copy / "big.bin").exists()


def test_a_trial_may_make_a_linked_folder_that_exists(folder: Path) -> None:
    ended = writer(copy_of(folder), "exists")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("what", "content"), [("write", "new"), ("append", "x" * 90 + "new"), ("database", "x" * 90), ("read", None)]
)
def test_a_linked_file_becomes_a_copy_when_it_is_written(folder: Path, what: str, content: str | None) -> None:
    copy = copy_of(folder)
    ended = writer(copy, what)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "big.bin").read_text() == "x" * 90
    assert (copy / "big.bin").is_symlink() == (content is None)
    if content is not None:
        assert (copy / "big.bin").read_text() == content


def test_a_trial_does_not_write_in_a_linked_folder(folder: Path) -> None:
    ended = writer(copy_of(folder), "folder")
    assert "PermissionError: " in ended.stderr
    assert "loaderlab tune has linked this folder" in ended.stderr
    assert not (folder / "images" / "new.png").exists()


def test_torch_save_is_watched(folder: Path) -> None:
    code = (
        "import torch\nfrom pathlib import Path\nfrom loaderlab.tuning.linked_files import LinkedFiles\n"
        "LinkedFiles(Path.cwd(), ['big.bin'], []).hook(torch.serialization)\ntorch.serialization.save([1], 'big.bin')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=copy_of(folder), timeout=120, check=True)
    assert (folder / "big.bin").read_bytes() == b"x" * 90


# ---- paths ------------------------------------------------------------------------------------------------------------


def test_paths_stay_valid_in_the_copy(folder: Path) -> None:
    (folder.parent / "data").mkdir()
    (folder.parent / "other.py").write_text("")
    arguments = ["../data", "--data=../data", "../nowhere", "package/data.py"]
    outside = str(folder.parent / "data")
    expected = [outside, f"--data={outside}", "../nowhere", "package/data.py"]
    assert inside(Program("train.py", False, arguments), folder) == Program("train.py", False, expected)
    assert inside(Program(str(folder / "package" / "data.py"), False), folder).name == "package/data.py"
    assert inside(Program("../other.py", False), folder).name == str(folder.parent / "other.py")
    assert inside(Program("package.train", True), folder).name == "package.train"


def test_the_test_really_writes_through_a_link(folder: Path) -> None:
    """Without `LinkedFiles`, the original would change."""
    copy = copy_of(folder)
    with sqlite3.connect(os.fspath(copy / "new.db")):
        pass
    (copy / "big.bin").write_text("changed")
    assert (folder / "big.bin").read_text() == "changed"
