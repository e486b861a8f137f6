"""Write a file so that it is either whole or not there: a temporary neighbour, then one rename."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalewise.errors import UnwritableOutput

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True, within: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` when the block ends well, and goes when it does not.

    `within`: a folder of the same disk to put it in instead, where what a killed process leaves is found again.

    with atomic_write("report.json") as temporary:
        temporary.write_text(text)
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    # A name of its own length, as `path` may already have the longest name allowed; hidden, so a folder job skips it.
    temporary = (within or path.parent) / f".{secrets.token_hex(8)}.part"
    try:
        # Not mkstemp, whose files nobody else may read: the result gets the usual permissions.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise UnwritableOutput(f"cannot write in folder {str(path.parent)!r}: {error.strerror}") from error
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}; free some space") from error
        if not overwrite and os.path.lexists(path):  # it came while we were writing
            raise UnwritableOutput(exists_message(path))
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise `UnwritableOutput` if a file could not be put at `path`: asked before hours of work, not after."""
    try:
        if path.is_dir():
            raise UnwritableOutput(f"{str(path)!r} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise UnwritableOutput(f"folder {str(path.parent)!r} does not exist; make it first")
        if not overwrite and os.path.lexists(path):
            raise UnwritableOutput(exists_message(path))
        os.stat(path.parent / path.name)  # also finds names that are too long
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UnwritableOutput(f"cannot write {str(path)!r}: {error.strerror}") from error
    except ValueError as error:  # a NUL character
        raise UnwritableOutput(f"cannot write {str(path)!r}: {error}") from error
    try:
        # Trying is the only honest test: permission bits do not know of read-only disks.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UnwritableOutput(f"cannot write in folder {str(path.parent)!r}: {error.strerror}") from error


def exists_message(path: Path) -> str:
    return f"{str(path)!r} exists; allow overwriting or choose another name"
