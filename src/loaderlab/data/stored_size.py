"""The mean size of a stored sample: of its file, of its member of a tar file, or of its array in memory."""

from __future__ import annotations

import os

import numpy as np

from loaderlab.data.spec import ImageArrays, ImageFiles, Source, TarImages, Vectors

MAX_FILES = 1_000  # whose sizes are read


def mean_stored_bytes(source: Source) -> float | None:
    """The mean number of bytes of a stored sample, or None if it is unknown.

    It is unknown for a user's own dataset, and if no file can be read. Of many files, 1,000 at equal distances are used.
    """
    match source:
        case ImageFiles():
            return _mean_file_bytes(source)
        case TarImages():
            return float(source.sizes.mean()) if len(source) else None
        case ImageArrays():
            return source.images.nbytes / len(source) if len(source) else None
        case Vectors():
            return source.inputs.nbytes / len(source) if len(source) else None
    return None


def _mean_file_bytes(source: ImageFiles) -> float | None:
    sizes = []
    for index in np.unique(np.linspace(0, len(source) - 1, MAX_FILES).astype(int)).tolist() if len(source) else ():
        try:
            sizes.append(os.stat(source.paths[index]).st_size)
        except OSError:  # the loader reports files that cannot be read
            continue
    return float(np.mean(sizes)) if sizes else None
