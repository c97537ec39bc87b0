"""Two folders change places in one step, so that neither name is ever without one."""

import ctypes
import errno
import os
from pathlib import Path

HERE = -100
"""AT_FDCWD: paths are as the process sees them."""
EXCHANGE = 2
"""RENAME_EXCHANGE of renameat2(2), Linux 3.15 and glibc 2.28."""
UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What a kernel or file system without it answers."""


def exchange(one: Path, other: Path) -> bool:
    """Let two names of one disk change places; whether the system can. Raises OSError else."""
    library = None if os.name == "nt" else ctypes.CDLL(None, use_errno=True)
    rename = getattr(library, "renameat2", None)
    if rename is None:
        return False
    if rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) in UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def replace_folder(new: Path, path: Path, old: Path) -> None:
    """Put a folder in the place of `path`; what was there is then called `new` or `old`.

    Where names cannot be exchanged, it is `old` for a moment and nothing is `path`. When the
    process dies just then, `restore` is the way back.
    """
    if exchange(new, path):
        return
    os.replace(path, old)  # a full folder cannot be replaced in one step
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
