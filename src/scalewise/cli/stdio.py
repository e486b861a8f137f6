"""`-` as a name: a picture from stdin, a picture to stdout, by way of files that vanish."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from scalewise.errors import InvalidRequest, UnreadableImage

STREAM = "-"


@dataclass(frozen=True)
class Streams:
    """The names to work with instead; `to_stdout`: the picture goes there, and words have to go elsewhere."""

    names: list[str]
    output: str | None
    to_stdout: bool = False
    folder: Path | None = None

    def shown(self, path: Path) -> str:
        """A name as the user gave it."""
        return STREAM if self.folder is not None and self.folder in path.parents else str(path)


@contextmanager
def streams(names: list[str], output: str | None, ext: str | None) -> Iterator[Streams]:
    """Read stdin to the end if it is named, give the names to work with, and write stdout when the work went well.

    stdin without -o goes to stdout, in its own format or that of `ext`. Raises InvalidRequest.
    """
    if STREAM not in names and output != STREAM:
        yield Streams(names, output)
        return
    if len(names) > 1 or Path(names[0]).is_dir():
        raise InvalidRequest("- is one picture from stdin or to stdout: name it alone")
    with TemporaryDirectory(prefix="scalewise-") as folder:
        name = names[0]
        if name == STREAM:
            name = _from_stdin(Path(folder))
        to_stdout = output in (None, STREAM) if names[0] == STREAM else output == STREAM
        if to_stdout:
            if sys.stdout.isatty():
                raise InvalidRequest("stdout is a terminal: name a file by -o, or send the picture on by | or >")
            output = os.path.join(folder, f"out{_extension(name, ext)}")
        yield Streams([name], output, to_stdout, Path(folder))
        if to_stdout:
            assert output is not None
            with open(output, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _from_stdin(folder: Path) -> str:
    if sys.stdin.isatty():
        raise InvalidRequest("stdin is a terminal: send a picture to it by | or <")
    path = folder / "in"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if path.stat().st_size == 0:
        raise UnreadableImage("stdin is empty (0 bytes)")
    return str(path)


def _extension(name: str, ext: str | None) -> str:
    """Of what goes to stdout: what was asked for, else the input's own format, else png."""
    from scalewise import images

    if ext not in (None, "auto"):
        return f".{ext.lower().lstrip('.')}"
    own = f".{images.open(name).format}"
    return own if own in images.WRITABLE else ".png"
