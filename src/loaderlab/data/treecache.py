"""Cached lists of trees under ``$XDG_CACHE_HOME/loaderlab/listings`` (default ``~/.cache``). There is one file per tree, 40 MB
or more for a million images. Any of them may be deleted at any time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from loaderlab.data.arrayfile import ArrayFile, write
from loaderlab.data.tree import EXTENSIONS, Tree
from loaderlab.system import user

FACTS = ("classes", "endings", "others", "hidden", "repeated", "folders", "digest")
RULES = "2"  # version of the listing rules: a list made by another version is not used


def load(root: Path) -> Tree | None:
    """The cached list of this resolved root, if the tree has not changed since. None if there is no list, or it is damaged or
    of another root."""
    try:
        file = ArrayFile(_path(root))
    except (OSError, ValueError):
        return None
    if file.facts["root"] != str(root):
        return None
    tree = Tree(**{name: file.facts[name] for name in FACTS}, arrays=file)
    return tree if tree.unchanged(root) else None


def store(root: Path, tree: Tree) -> Tree:
    """Writes a list to the cache, and returns it with arrays that are mapped from the file.

    Raises:
        OSError: the file cannot be written.
    """
    write(_path(root), {name: getattr(tree, name) for name in FACTS} | {"root": str(root)}, tree.arrays)
    file = ArrayFile(_path(root))
    return Tree(**{name: file.facts[name] for name in FACTS}, arrays=file)


def folder() -> Path:
    """The folder of the cached lists."""
    return user.expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "loaderlab" / "listings"


def _path(root: Path) -> Path:
    """The cache file, named by the root, the image extensions and the version of the rules."""
    key = "\n".join([os.fspath(root), *sorted(EXTENSIONS), RULES])
    return folder() / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
