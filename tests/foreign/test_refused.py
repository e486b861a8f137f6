"""Files that are damaged, hostile or of no known kind: one line each, and nothing in them is run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scalewise import zoo
from scalewise.errors import CheckpointError, ScalewiseError
from scalewise.foreign import onnx_network, spandrel_network

RAN = Path("ran")


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (RAN,)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def zipped(entry: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", entry)
        archive.writestr("archive/code/run.py", "import os")
    return buffer.getvalue()


CONV = {"weight": torch.zeros(8, 3, 3, 3), "bias": torch.zeros(8)}
ESRGAN = {
    "model.0.weight": torch.zeros(8, 3, 3, 3),
    "model.0.bias": torch.zeros(8),
    "model.1.sub.0.RDB1.conv1.0.weight": torch.zeros(4, 8, 3, 3),
    "model.1.sub.0.RDB1.conv1.0.bias": torch.zeros(4),
}
FILES: dict[str, Callable[[], bytes]] = {
    "empty.pth": lambda: b"",
    "text.pth": lambda: b"not weights at all",
    "truncated.pth": lambda: saved(CONV)[:-200],
    "pickle.pth": lambda: pickle.dumps(_Runs()),
    "program.pth": lambda: zipped(pickle.dumps(_Runs())),
    "object.pth": lambda: saved({"params": CONV, "extra": _Runs()}),
    "no_tensors.pth": lambda: saved({"params": {"a": 1}}),
    "unknown.pth": lambda: saved({"some.layer.weight": torch.zeros(3, 3)}),
    "nan.pth": lambda: saved({"params": {key: value + float("nan") for key, value in ESRGAN.items()}}),
    "half_a_network.pth": lambda: saved(ESRGAN),
    "many_parts.pth": lambda: saved(ESRGAN | {"model.1.sub.99999999.RDB1.conv1.0.weight": torch.zeros(4, 8, 3, 3)}),
    "header.safetensors": lambda: (1 << 60).to_bytes(8, "little") + b"{" + b" " * 40,
    "text.onnx": lambda: b"not a graph",
}


@pytest.mark.parametrize("name", FILES)
def test_one_line_and_nothing_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    with pytest.raises(ScalewiseError) as caught:
        zoo.load(path)
    assert "\n" not in str(caught.value) and name in str(caught.value) and len(str(caught.value)) < 900
    assert not RAN.exists()


def test_without_spandrel_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "unknown.pth"
    path.write_bytes(FILES["unknown.pth"]())
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(CheckpointError, match="pip install --no-deps spandrel") as caught:
        zoo.load(path)
    assert spandrel_network.INSTALL in str(caught.value)


def test_without_onnxruntime_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ScalewiseError, match=r"pip install 'scalewise\[onnx\]'"):
        zoo.load(path)
    assert onnx_network.INSTALL
