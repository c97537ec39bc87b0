"""What the system refuses, as sentences: memory, disk, permissions, a closed pipe."""

import errno

CLOSED_PIPE = 141
"""Exit code where nobody reads the output any more, as shells have it for other programs."""


def is_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full; torch says so in its own words."""
    full = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in full)
    )


def sentence(error: BaseException) -> str:
    """One sentence for an OSError or a full memory."""
    if is_memory(error):
        return "the memory is full; close other programs, or use a machine or card with more."
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}; free some space and run the same command again."
    if error.errno == errno.EFBIG:
        return (
            f"a file{where} is larger than its disk or the limit of this shell (ulimit -f) allows; "
            "choose another place with -o, and run the same command again."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{error.filename or 'a file'} may not be read or written ({error.strerror}); change "
            "its permissions, or choose another place."
        )
    return f"{error.filename or 'the system'}: {error.strerror}; check that it is what you meant."
