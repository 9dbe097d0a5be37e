"""The user's name and home folder, even if the uid has no entry in /etc/passwd, as with ``docker run --user`` and OpenShift.

Python, torch and MLflow query both, and raise an error if the system does not know them.
"""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path


def user_name() -> str:
    """The user's name, or the uid if it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return str(os.getuid())


def home() -> Path:
    """The home folder, or a private temporary folder if the user has no home."""
    try:
        return Path.home()
    except RuntimeError:
        return private_folder("home")


def expanded(path: str) -> Path:
    """The path with a leading ``~`` replaced by the home folder. ``~name`` is unchanged if there is no such user."""
    rest = path.removeprefix("~")
    if rest != path and rest[:1] in ("", "/"):
        return home() / rest.lstrip("/")
    return Path(os.path.expanduser(path))


def give_name_and_home() -> None:
    """Sets LOGNAME and HOME for this process and its children if the system knows no name or home folder. Also sets a folder for
    matplotlib's cache if the home folder cannot be written."""
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
    """A temporary folder that belongs to this user. A folder of the same name that another user created is not used."""
    folder = Path(tempfile.gettempdir()) / f"loaderlab-{name}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"loaderlab-{name}-"))
    if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
        return folder
    return Path(tempfile.mkdtemp(prefix=f"loaderlab-{name}-"))
