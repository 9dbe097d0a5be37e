"""A tar file's samples by its headers, and whether the file is whole.

Python's tarfile ends without an error at a header that is cut, damaged or missing, so a file that was cut there would give
fewer samples. A tar file is whole if an end-of-archive block of zeros follows its last member, and nothing after it.
"""

from __future__ import annotations

import shlex
import tarfile

from loaderlab.data.spec import DataError
from loaderlab.system.causes import reason

BLOCK = tarfile.BLOCKSIZE
TAIL_BYTES = 2**20  # read after the end of the archive; tar fills up to 10,240 bytes with zeros
Members = dict[str, tuple[int, int]]  # of one sample: by extension, offset and size


def scan(path: str) -> list[Members]:
    """The samples of a tar file in its order. Members of one sample follow each other (as WebDataset has it); those whose
    name or folder begins with a dot belong to none.

    Raises:
        DataError: it is no tar file, compressed, or not whole, or has a sample with two members of one name.
    """
    samples: list[Members] = []
    last = None
    after = ""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError("a member of negative size")
                after = f" after member {member.name!a}"
                folder, _, name = member.name.rpartition("/")
                base, _, extension = name.partition(".")
                hidden = any(part.startswith(".") and part not in (".", "..") for part in folder.split("/"))
                if not member.isreg() or not base or hidden:
                    continue
                if (folder, base) != last:
                    samples.append({})
                    last = (folder, base)
                if extension in samples[-1]:
                    raise DataError(
                        f"{path}: two members of one sample are named {member.name!a}. Pack it again without one"
                    )
                samples[-1][extension] = (member.offset_data, member.size)
            end = tar.offset
        damage = damage_at(path, end)
    except DataError:
        raise
    except Exception as error:  # of a damaged header tarfile raises more than its own errors
        damage = reason(error) + after
    if damage is not None:
        raise DataError(f"{path}: not a whole, uncompressed tar file: {damage}. Download or copy it again")
    return samples


def damage_at(path: str, end: int) -> str | None:
    """What is wrong with a tar file whose last member ends at this byte; None where it is whole.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(end)
        block, tail = file.read(BLOCK), file.read(TAIL_BYTES)
    if not block:
        append = f"truncate -s +{2 * BLOCK} {shlex.quote(path)}"
        return f"it ends at byte {end} without an end-of-archive block (if no member is missing, type: {append})"
    if len(block) < BLOCK:
        return f"it ends inside the header at byte {end}"
    if any(block):
        return f"the header at byte {end} is damaged"
    if any(tail):
        return f"after its end-of-archive block at byte {end} more data follow, as in several tar files joined by cat"
    return None
