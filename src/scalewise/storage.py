"""Files that are whole or not there: atomic writes, locks, lines of JSON, and the user's cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from scalewise.errors import OutputExists, UnwritableOutput

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Flags that not every system has.
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


Stamp = list[int]  # size in bytes and time of the last change in nanoseconds, as JSON holds them
OnArrival = Callable[[Path, Stamp], None]

_on_arrival: ContextVar[OnArrival | None] = ContextVar("_on_arrival", default=None)


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True, within: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` when the block ends well, and goes when it does not.

    The content is on the disk before the name changes, so that a power cut leaves the old file or the new one.
    Without `overwrite`, a file that arrives while the block runs is kept too. `within`: another folder of the same
    disk for the temporary file. What a killed process left is removed by the next call for the same path.

    with atomic_write("report.json") as temporary:
        temporary.write_text(text)

    Raises UnwritableOutput.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    folder = within or path.parent
    # Its length does not depend on `path`, which may already have the longest name allowed; a folder job skips it.
    owner = hashlib.blake2b(os.fsencode(path.name), digest_size=6).hexdigest()
    for old in folder.glob(f".{owner}-*.part"):
        _remove_if_left(old)
    temporary = folder / f".{owner}-{secrets.token_hex(6)}.part"
    try:
        # Not mkstemp, whose files nobody else may read: the result gets the usual permissions.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _CLOSE_ON_EXEC, 0o666)
    except OSError as error:
        raise UnwritableOutput(f"cannot write in folder {str(folder)!r}: {error.strerror}") from error
    if fcntl is None:  # Windows renames no file that is open
        os.close(descriptor)
    try:
        _lock(descriptor)  # says that its writer is alive
        try:
            yield temporary
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}; free some space") from error
        try:
            _sync(temporary)
            if (tell := _on_arrival.get()) is not None and (arriving := stamp(temporary)) is not None:
                tell(path, arriving)
            if overwrite or not _linked(temporary, path):
                os.replace(temporary, path)
            _sync(path.parent)
        except FileExistsError:  # it came while we were writing
            raise OutputExists(path) from None
        except OSError as error:
            hint = "; free some space" if error.errno in FULL else ""
            raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}{hint}") from error
    finally:
        temporary.unlink(missing_ok=True)
        if fcntl is not None:
            os.close(descriptor)


@contextmanager
def on_arrival(tell: OnArrival) -> Iterator[None]:
    """While the block runs, `atomic_write` in this thread calls `tell(path, stamp)` just before a file gets its name.

    What `tell` records survives a kill at any later moment, and a file with another stamp is somebody else's.
    """
    token = _on_arrival.set(tell)
    try:
        yield
    finally:
        _on_arrival.reset(token)


def write_bytes(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Whole or not at all. Raises UnwritableOutput."""
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


def _linked(temporary: Path, path: Path) -> bool:
    """Give `temporary` the name `path`, which must be free; False where the file system has no hard links.

    Raises FileExistsError.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        return False
    return True


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. Folders cannot be opened everywhere."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _CLOSE_ON_EXEC)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in FULL or error.errno == errno.EIO:
            raise
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock of an open file; False if another holds it. True where there are no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network disk without locks
        return True
    return True


def _remove_if_left(path: Path) -> None:
    """Remove a temporary file whose writer is gone."""
    if fcntl is None:
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | _CLOSE_ON_EXEC | _NO_FOLLOW | _NO_WAIT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raise `UnwritableOutput` if a file could not be put at `path`: asked before hours of work, not after."""
    try:
        if path.is_dir():
            raise UnwritableOutput(f"{str(path)!r} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise UnwritableOutput(f"folder {str(path.parent)!r} does not exist; make it first")
        if not overwrite and os.path.lexists(path):
            raise OutputExists(path)
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


def stamp(path: Path) -> Stamp | None:
    """Size and date of a file; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a plain file: a link is not followed, and a pipe does not block.

    Raises UnwritableOutput for anything else of that name, FileNotFoundError and other OSErrors as `os.open` does.
    """
    try:
        descriptor = os.open(path, flags | _CLOSE_ON_EXEC | _NO_FOLLOW | _NO_WAIT, 0o666)
    except OSError as error:
        if os.path.lexists(path) and not is_plain(path):
            raise UnwritableOutput(f"{str(path)!r} is {_kind(path)}, and has to be a plain file: move it") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnwritableOutput(f"{str(path)!r} is {_kind(path)}, and has to be a plain file: move it")
    return descriptor


def is_plain(path: Path) -> bool:
    """True for a file that is neither a link, a folder, a pipe nor a device."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "a link"
    return "a folder" if os.path.isdir(path) else "a pipe or a device"


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line of JSON that is on the disk when this returns. Raises UnwritableOutput."""
    text = json.dumps(value) + "\n"
    try:
        with os.fdopen(open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "r+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text  # the last run was killed while it wrote
            content = text.encode()
            if file.write(content) != len(content):  # one call, so that lines of several processes do not mix
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of such a file; none if there is none, and without lines that were cut off. Raises UnwritableOutput."""
    found: list[dict[str, Any]] = []
    try:
        with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise UnwritableOutput(f"cannot read {str(path)!r}: {error.strerror}") from error
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold `path`, which is made, against other processes and threads. Raises UnwritableOutput with `message`.

    The holder may remove the file before it lets go: a lock counts only while its file still has the name, so nobody
    holds a file that another has removed and made again.
    """
    while True:
        try:
            descriptor = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnwritableOutput(f"cannot write {str(path)!r}: {error.strerror}") from error
        try:
            if not _lock(descriptor):
                raise UnwritableOutput(message)
            if not _is_named(descriptor, path):
                continue
            yield
            return
        finally:
            os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """True if an open file is the one that has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def cache_folder() -> Path:
    """The user's cache folder for scalewise."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "scalewise"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "scalewise" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "scalewise"


def read_cached(path: Path) -> dict[str, Any]:
    """The JSON object that `write_cached` left; empty if there is none, or it is damaged."""
    with suppress(OSError, ValueError, RecursionError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}


def write_cached(path: Path, value: Mapping[str, Any]) -> None:
    """Keep a JSON object for `read_cached`; where that cannot be written, it is found anew the next time."""
    with suppress(OSError, UnwritableOutput):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(value).encode())
