"""Pictures as bytes, of a request, a database or an open file: put into a file of their own while they are read.

All readers work on files, so that one way of checking and decoding serves every kind of input.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scalewise.errors import ScalewiseError, UnreadableImage

CALLED = "the picture in memory"  # in errors, where a file would have its name


class HeldFile:
    """Bytes in a file that is removed with the last `Source` that reads it. Pickles as the bytes."""

    def __init__(self, data: Any) -> None:
        """`data`: bytes, or what has a `read` that gives them. Raises UnreadableImage."""
        number, name = tempfile.mkstemp(prefix="scalewise-")
        self.path = Path(name)
        weakref.finalize(self, _remove, name, os.getpid())
        try:
            with os.fdopen(number, "wb") as file:
                if hasattr(data, "read"):
                    shutil.copyfileobj(data, file, 1 << 20)
                else:
                    file.write(data)
                if not file.tell():
                    raise UnreadableImage(f"{CALLED} is empty (0 bytes; of a file object, from where it stands)")
        except TypeError as error:
            kind = type(data).__name__
            raise UnreadableImage(f"{kind} gives text: open the file for reading bytes, open(…, 'rb')") from error
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            reason = getattr(error, "strerror", None) or error
            raise UnreadableImage(f"cannot read the picture from {type(data).__name__}: {reason}") from error

    def __reduce__(self) -> tuple[type[HeldFile], tuple[bytes]]:
        return HeldFile, (self.path.read_bytes(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldFile:
        return self

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors inside the block do not name our file, which nobody else knows."""
        try:
            yield
        except ScalewiseError as error:
            text = str(error).replace(repr(str(self.path)), CALLED)
            if text == str(error):
                raise
            raise type(error)(text) from error.__cause__


def is_bytes(image: object) -> bool:
    """Whether `image` is bytes, or an object that is read like an open file."""
    return isinstance(image, bytes | bytearray | memoryview) or callable(getattr(image, "read", None))


def _remove(name: str, process: int) -> None:
    if os.getpid() == process:  # a forked child ends before its parent
        with suppress(OSError):
            os.unlink(name)
