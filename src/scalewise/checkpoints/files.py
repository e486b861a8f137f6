"""Reading weight files without trusting them, and writing safetensors.

A torch file is a pickle, and pickles can run code. So it is first walked with an unpickler that knows a handful of
harmless names, makes no tensor, and compares what each tensor declares with the bytes that are there. Only then does
`torch.load(weights_only=True)` read it.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct  # pyright: ignore[reportAttributeAccessIssue]
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalewise.errors import CheckpointError, UnwritableOutput

STORAGE_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "UntypedStorage": 1,
}
_BYTE_ARRAY = pickle.BYTEARRAY8[0]
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


PLAIN = ("f8", "f4", "i8", "i4")
# What numpy's arrays are written with, under both names of its core: none of these runs what a file brings.
ARRAY_NAMES = [
    *((np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype"), (codecs.encode, "_codecs.encode")),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((type(np.dtype(kind)), f"numpy.dtypes.{type(np.dtype(kind)).__name__}") for kind in PLAIN),
]


@dataclass(frozen=True)
class Content:
    """What a file holds: nested dicts with tensors at the leaves, and a safetensors file's `metadata`."""

    path: Path
    data: Any
    metadata: Mapping[str, str]


def read(path: str | os.PathLike[str]) -> Content:
    """The content of a weight file on the CPU. Raises CheckpointError for everything that is not plainly weights."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:9] == b"{":
        return _read_safetensors(path)
    if start[:2] == b"PK":
        _check_zip(path, size)
    elif start[:1] == b"\x80":
        _check_legacy(path, size)
    else:
        raise CheckpointError(f"{path}: not a weight file; give safetensors or a torch file (.pth, .pt, .t7, .ckpt)")
    mmap = start[:2] == b"PK"
    try:
        with torch.serialization.safe_globals(ARRAY_NAMES):
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as weights: {_first_line(error)}") from None
    return Content(path, data, {})


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], overwrite: bool) -> None:
    """Write atomically; every metadata value that is not a string is written as JSON."""
    if path.exists() and not overwrite:
        raise UnwritableOutput(f"{path} exists: choose another name or allow overwriting")
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise UnwritableOutput(f"cannot write {path}: {error.strerror}") from None
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, words)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UnwritableOutput(f"cannot write {path}: {_first_line(error)}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read_safetensors(path: Path) -> Content:
    try:  # the library compares the header with the file's size before it maps anything
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return Content(path, tensors, file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or truncated safetensors file: {_first_line(error)}") from None


class _RefusedError(Exception):
    """Something in a pickle that weights do not need."""


@dataclass(frozen=True)
class _Storage:
    key: str
    bytes: int
    item: int


class _Walker(pickle._Unpickler):
    """Unpickles names and shapes only: no tensor is made and no foreign function is called.

    The unpickler in Python and not the one in C, which fills memory up to any memo index that a file names; and none
    of its byte arrays, which are filled before they are read.
    """

    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != _BYTE_ARRAY}

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGE_BYTES:
            return STORAGE_BYTES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): _nothing,
            ("torch", "device"): _nothing,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _nothing,
            ("numpy", "ndarray"): _never_called,
            ("numpy", "dtype"): _Kind,
            ("_codecs", "encode"): _Latin,
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return None
        raise _RefusedError(f"it names {module}.{name}, which weights do not need")

    def persistent_load(self, pid: Any) -> _Storage:
        _, item, key, _, count = pid[:5]
        if not (isinstance(item, int) and isinstance(count, int) and count >= 0):
            raise _RefusedError("it declares a storage that is not one")
        return self.storages.setdefault(str(key), _Storage(str(key), count * item, item))


class _Latin:
    """Bytes, as protocol 2 writes them: text of the file itself, encoded by Latin-1. The result cannot be longer."""

    def __init__(self, text: Any, encoding: Any = None, *rest: Any) -> None:
        if type(text) is not str or encoding not in ("latin1", "latin-1") or rest:
            raise _RefusedError("it encodes something other than its own text")
        self.length = len(text)


class _Kind:
    """A plain kind of number: nothing nested, no fields, no objects."""

    def __init__(self, name: Any, *flags: Any) -> None:
        if name not in PLAIN or any(type(flag) not in (bool, int) for flag in flags):
            raise _RefusedError(f"it declares an array of {str(name)[:40]!r}; numbers are {', '.join(PLAIN)}")
        self.bytes = int(name[1])

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 8 or any(part is not None for part in state[2:5]):
            raise _RefusedError("it declares an array of something other than numbers")


class _Array:
    """A numpy array: as many numbers as the file holds."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, raw = state
        held = raw.length if isinstance(raw, _Latin) else len(raw) if isinstance(raw, bytes) else -1
        if not isinstance(kind, _Kind) or any(n < 0 for n in shape) or prod(shape) * kind.bytes != held:
            raise _RefusedError(f"it declares an array of shape {shape} that it does not hold")


def _empty_array(_: Any, shape: Any, *__: Any) -> _Array:
    """An array is made empty, and then gets the numbers that are in the file."""
    if prod(shape):
        raise _RefusedError(f"it declares an array of {prod(shape):.3g} numbers that it does not hold")
    return _Array()


def _never_called(*_: Any) -> None:
    raise _RefusedError("it makes an array without numbers in the file")


def _nothing(*_: Any) -> None:
    return None


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
    """Check that a tensor's elements lie in its storage; strides of 0 that repeat few bytes many times are refused."""
    if not isinstance(storage, _Storage):
        raise _RefusedError("it declares a tensor without a storage")
    if any(n < 0 for n in (offset, *size, *stride)):
        raise _RefusedError("it declares a tensor of negative size")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = prod(size)
    if count and max(last + 1, count) * storage.item > storage.bytes:
        gigabytes = max(last + 1, count) * storage.item / 1e9
        raise _RefusedError(f"it declares a tensor of {gigabytes:.3g} GB in a storage of {storage.bytes} bytes")


def _check_zip(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: info for info in archive.infolist()}
            spelled = [info.filename.casefold() for info in archive.infolist()]  # torch finds names in any case
            if len(set(spelled)) < len(spelled):
                twice = next(name for name in spelled if spelled.count(name) > 1)
                raise _RefusedError(
                    f"its record {twice[:80]!r} comes twice, so that what is checked may not be what is read"
                )
            for info in records.values():
                if info.compress_type != zipfile.ZIP_STORED or info.header_offset + info.file_size > size:
                    raise _RefusedError(f"its record {info.filename} is compressed or longer than the file")
            pickles = [name for name in records if name.endswith("/data.pkl")]
            if len(pickles) != 1 or any("/code/" in name for name in records):
                raise _RefusedError("it is not a file of torch.save (a program or another kind of archive)")
            with archive.open(pickles[0]) as file:
                walker = _Walker(file)  # type: ignore[arg-type]
                walker.load()
        folder = pickles[0].removesuffix("data.pkl")
        for storage in walker.storages.values():
            record = records.get(f"{folder}data/{storage.key}")
            held = record.file_size if record else 0
            if held < storage.bytes:
                raise _RefusedError(f"it declares {storage.bytes / 1e9:.3g} GB of weights where it holds {held} bytes")
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: damaged or truncated torch file") from None
    except _RefusedError as error:
        raise CheckpointError(f"{path} was refused: {error}; nothing in it was run") from None
    except Exception as error:  # a pickle can fail in any way
        raise CheckpointError(f"{path}: damaged torch file: {_first_line(error)}") from None


def _check_legacy(path: Path, size: int) -> None:
    """The format before torch 1.6: four pickles, the list of storages, then their bytes."""
    try:
        with path.open("rb") as file:
            if _Walker(file).load() != LEGACY_MAGIC:
                raise _RefusedError("it is a pickle, but not a file of torch.save")
            _Walker(file).load()  # protocol
            _Walker(file).load()  # what machine wrote it
            walker = _Walker(file)
            walker.load()
            _Walker(file).load()  # keys of the storages
            declared = sum(storage.bytes + 8 for storage in walker.storages.values())
            held = size - file.tell()
        if declared > held:
            raise _RefusedError(f"it declares {declared / 1e9:.3g} GB of weights where it holds {held} bytes")
    except _RefusedError as error:
        raise CheckpointError(f"{path} was refused: {error}; nothing in it was run") from None
    except Exception as error:
        raise CheckpointError(f"{path}: damaged or truncated torch file: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def leaves(data: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested dict with its dotted name."""
    if isinstance(data, Tensor):
        yield prefix, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
