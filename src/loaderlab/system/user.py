"""The user's name and home folder, also where the uid has no entry in /etc/passwd, as in ``docker run --user`` and OpenShift.

Python, torch and MLflow ask the system for both, and raise where it has neither.
"""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path


def user_name() -> str:
    """The user's name; the uid where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return str(os.getuid())


def home() -> Path:
    """The home folder; one under the folder for temporary files where the user has none."""
    try:
        return Path.home()
    except RuntimeError:
        return private_folder("home")


def expanded(path: str) -> Path:
    """The path, with a leading ``~`` replaced by the home folder. ``~name`` stays as it is where there is no such user."""
    rest = path.removeprefix("~")
    if rest != path and rest[:1] in ("", "/"):
        return home() / rest.lstrip("/")
    return Path(os.path.expanduser(path))


def give_name_and_home() -> None:
    """Sets LOGNAME and HOME for this process and those that it starts, if the system knows no name or home folder;
    and a folder for matplotlib's cache if the home folder cannot be written."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = user_name()
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(private_folder("home"))
    if "MPLCONFIGDIR" not in os.environ and not os.access(Path.home(), os.W_OK):  # matplotlib would warn on stderr
        os.environ["MPLCONFIGDIR"] = str(private_folder("matplotlib"))


def private_folder(name: str) -> Path:
    """A folder of this user's own for temporary files: one that somebody else has made under the same name is not used."""
    folder = Path(tempfile.gettempdir()) / f"loaderlab-{name}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"loaderlab-{name}-"))
    if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
        return folder
    return Path(tempfile.mkdtemp(prefix=f"loaderlab-{name}-"))
