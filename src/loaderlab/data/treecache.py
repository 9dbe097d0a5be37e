"""The lists of trees, kept from run to run under ``$XDG_CACHE_HOME/loaderlab/listings`` (``~/.cache`` without it): one
file a tree, 40 MB and more for a million images. Any of them may be removed at any time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from loaderlab.data.arrayfile import ArrayFile, write
from loaderlab.data.tree import EXTENSIONS, Tree
from loaderlab.system import user

FACTS = ("classes", "endings", "others", "hidden", "repeated", "folders", "digest")
RULES = "2"  # of what is listed: a list that was made by others is not used


def load(root: Path) -> Tree | None:
    """The list of this resolved root where one is kept and the tree is still as it was then. What is damaged or of
    another root is as good as none."""
    try:
        file = ArrayFile(_path(root))
    except (OSError, ValueError):
        return None
    if file.facts["root"] != str(root):
        return None
    tree = Tree(**{name: file.facts[name] for name in FACTS}, arrays=file)
    return tree if tree.unchanged(root) else None


def store(root: Path, tree: Tree) -> Tree:
    """Keeps a list, and gives the same list as it stands on its file.

    Raises:
        OSError: it cannot be written.
    """
    write(_path(root), {name: getattr(tree, name) for name in FACTS} | {"root": str(root)}, tree.arrays)
    file = ArrayFile(_path(root))
    return Tree(**{name: file.facts[name] for name in FACTS}, arrays=file)


def folder() -> Path:
    """Where the lists are kept."""
    return user.expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "loaderlab" / "listings"


def _path(root: Path) -> Path:
    """By root, by what counts as an image, and by the rules of a listing."""
    key = "\n".join([os.fspath(root), *sorted(EXTENSIONS), RULES])
    return folder() / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
