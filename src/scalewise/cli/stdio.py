"""stdin, stdout and stderr: `-` as a name, streams that are closed or full, and signals that end a command."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scalewise.errors import InvalidRequest, UnreadableImage, UnwritableOutput

STREAM = "-"


class Interrupted(KeyboardInterrupt):
    """The command was asked to end: by Ctrl-C, or by a signal that a system or a terminal sends when it ends."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number  # what a shell gives a command that a signal ended


def end_by_signals() -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: nothing half-written stays. A second one changes nothing.

    A signal that is ignored, as by nohup, stays so.
    """

    def end(number: int, _: Any) -> None:
        for name in handled:
            signal.signal(name, signal.SIG_IGN)
        raise Interrupted(number)

    handled = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handled = [number for number in handled if signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, end)


def open_streams() -> None:
    """Open those of the three streams that are closed, and turn errors of stdout into ours.

    Otherwise the next file that is opened gets the number of the stream, and what is printed goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be text that the terminal can show
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _Stdout(sys.stdout)


class _Stdout(io.TextIOWrapper):
    """stdout whose errors are UnwritableOutput, except that of a pipe that its reader closed."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._name = stream.name
        super().__init__(stream.detach(), stream.encoding, stream.errors, line_buffering=stream.line_buffering)

    @property
    def name(self) -> str:
        return self._name

    def write(self, text: str, /) -> int:
        with stdout_errors():
            return super().write(text)

    def flush(self) -> None:
        with stdout_errors():
            super().flush()


@contextmanager
def stdout_errors() -> Iterator[None]:
    """Errors of stdout become UnwritableOutput; that of a closed pipe stays as it is."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        with suppress(OSError):  # what is still in the buffer must not fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise UnwritableOutput(f"could not write to stdout: {error.strerror}") from error


@dataclass(frozen=True)
class Streams:
    """The names to work with instead; `to_stdout`: the picture goes there, and text has to go elsewhere."""

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
    if len(names) > 1 or os.path.isdir(names[0]):
        raise InvalidRequest("- is one picture from stdin or to stdout: name it alone")
    with TemporaryDirectory(prefix="scalewise-") as folder:
        name = names[0]
        to_stdout = output in (None, STREAM) if names[0] == STREAM else output == STREAM
        if to_stdout:
            _check_stdout()
        if name == STREAM:
            name = _from_stdin(Path(folder))
        if to_stdout:
            output = os.path.join(folder, f"out{_extension(name, ext)}")
        yield Streams([name], output, to_stdout, Path(folder))
        if to_stdout:
            assert output is not None
            with open(output, "rb") as file, stdout_errors():
                shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()


def _check_stdout() -> None:
    if sys.stdout.isatty():
        raise InvalidRequest("stdout is a terminal: name a file by -o, or send the picture on by | or >")
    if _is_replaced(sys.stdout):
        raise InvalidRequest("stdout is closed: name a file by -o, or send the picture on by | or >")


def _from_stdin(folder: Path) -> str:
    if sys.stdin.isatty():
        raise InvalidRequest("stdin is a terminal: send a picture to it by | or <")
    if _is_replaced(sys.stdin):
        raise InvalidRequest("stdin is closed: send a picture to it by | or <")
    path = folder / "in"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise UnreadableImage(f"could not keep what came from stdin in {str(folder)!r}: {error.strerror}") from error
    if path.stat().st_size == 0:
        raise UnreadableImage("stdin is empty (0 bytes)")
    return str(path)


def _is_replaced(stream: Any) -> bool:
    """True for a stream that was closed when the command began."""
    return getattr(stream, "name", None) == os.devnull


def _extension(name: str, ext: str | None) -> str:
    """The extension of what goes to stdout: what was asked for, else the input's own format, else png."""
    from scalewise import images

    if ext not in (None, "auto"):
        return f".{ext.lower().lstrip('.')}"
    return images.extension_of(images.open(name).format)
