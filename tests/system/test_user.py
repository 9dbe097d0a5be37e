"""The user's name and home folder, also for a uid that is not in /etc/passwd."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import given

from loaderlab.config import PROJECT
from loaderlab.data import treecache
from loaderlab.system import user

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A uid without an entry, a name or a home folder. Returns the folder for temporary files."""

    def no_entry(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in (*NAMES, "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_uid_without_an_entry_is_its_own_name(nobody: Path) -> None:
    assert user.user_name() == str(os.getuid())


def test_a_user_without_a_home_gets_a_private_one(nobody: Path) -> None:
    folder = user.home()
    assert folder == nobody / f"loaderlab-home-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert user.home() == folder


def test_a_home_that_another_user_created_is_not_used(nobody: Path) -> None:
    (nobody / f"loaderlab-home-{os.getuid()}").symlink_to("/etc")
    assert user.home().parent == nobody
    assert not user.home().is_symlink()


def test_lists_of_files_are_cached_without_a_home(nobody: Path) -> None:
    assert treecache.folder() == user.home() / ".cache" / "loaderlab" / "listings"


def test_name_and_home_are_set_only_if_there_are_none(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("HOME", "/home/ann")
    user.give_name_and_home()
    assert "LOGNAME" not in os.environ
    assert os.environ["HOME"] == "/home/ann"
    monkeypatch.delenv("USER")
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("LOGNAME", "")  # restored at the end
    user.give_name_and_home()
    assert os.environ["LOGNAME"] == str(os.getuid())
    assert os.environ["HOME"] == str(user.home())
    monkeypatch.delenv("HOME")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("~/a", "/home/ann/a"), ("~", "/home/ann"), ("/a/~", "/a/~"), ("~no_such_user/a", "~no_such_user/a")],
)
def test_expanded(path: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert str(user.expanded(path)) == expected


def test_mlflow_is_imported_for_a_uid_without_an_entry(tmp_path: Path) -> None:
    """The import queries the home folder; torch's compiler and a run's record query the user's name."""
    code = (
        "import pwd\n"
        "def no_entry(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = no_entry\n"
        "from loaderlab.config import TrackingConfig\n"
        "from loaderlab.tracking import open_store\n"
        "import getpass, sys\n"
        "store = open_store(TrackingConfig(uri=sys.argv[1]), None)\n"
        "with store.start('run', None, {}) as run: pass\n"
        "print(store.client.get_run(run.run_id).data.tags['mlflow.user'], getpass.getuser())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in (*NAMES, "HOME")}
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'mlflow.db'}"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{os.getuid()} {os.getuid()}\n", done.stderr


@pytest.mark.parametrize("writable", [True, False])
def test_matplotlib_has_a_cache_where_the_home_folder_cannot_be_written(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it prints a warning of two lines to stderr."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", "")
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setattr("loaderlab.system.user.os.access", lambda *_: writable)
    user.give_name_and_home()
    assert ("MPLCONFIGDIR" in os.environ) == (not writable)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(name=TEXT, home=TEXT, rest=TEXT)
def test_property_any_name_and_any_home_folder(name: str, home: str, rest: str) -> None:
    """Of any script, with spaces, and with what a shell or a URI takes for its own."""
    with mock.patch.dict(os.environ, {"LOGNAME": name, "HOME": f"/home/{home}"}):
        assert user.user_name() == name
        assert user.expanded(f"~/{rest}") == Path(f"/home/{home}") / rest.lstrip("/")
        assert user.expanded(f"/{rest}") == Path(f"/{rest}")
        user.give_name_and_home()
        assert os.environ["HOME"] == f"/home/{home}"
