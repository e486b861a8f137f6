"""Weight files are not trusted: code, lies about sizes and damage are refused before anything runs or is allocated."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch._utils import _rebuild_tensor_v2

from scalewise import compat
from scalewise.checkpoints import files, load, native
from scalewise.checkpoints.build import super_resolver
from scalewise.encoders.edsr import EDSR
from scalewise.errors import CheckpointError


def edsr_state(blocks: int = 1, channels: int = 4) -> dict[str, torch.Tensor]:
    """A state dict in EDSR-PyTorch's keys."""
    widths = {"head.0": (channels, 3)}
    widths |= {f"body.{i}.body.{j}": (channels, channels) for i in range(blocks) for j in (0, 2)}
    widths |= {f"body.{blocks}": (channels, channels), "tail.0.0": (4 * channels, channels), "tail.1": (3, channels)}
    state = {f"{name}.weight": torch.rand(*shape, 3, 3) for name, shape in widths.items()}
    return state | {f"{name}.bias": torch.rand(shape[0]) for name, shape in widths.items()}


def saved(path: Path, data: Any, *, legacy: bool = False) -> Path:
    torch.save(data, path, _use_new_zipfile_serialization=not legacy)
    return path


def refused(path: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        compat.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "it-ran"
    refused(saved(tmp_path / "evil.pth", edsr_state() | {"x": Evil(trace)}, legacy=legacy), "names posix.system")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(trace)))
    refused(tmp_path / "plain.pth", "names posix.system")
    assert not trace.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, legacy: bool, share: float) -> None:
    whole = saved(tmp_path / "whole.pth", edsr_state(), legacy=legacy).read_bytes()
    part = tmp_path / "part.pth"
    part.write_bytes(whole[: int(len(whole) * share)])
    refused(part, "truncated|damaged|not a weight file|refused")


def test_truncated_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"head.0.weight": torch.rand(4, 3, 3, 3)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "part.safetensors").write_bytes(whole[: int(len(whole) * share)])
        refused(tmp_path / "part.safetensors", "truncated")


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content in (b"hello", b"", bytes(99), b"\x80", b"\x80\x02]q\x00."):
        (tmp_path / "other.pth").write_bytes(content)
        refused(tmp_path / "other.pth", "not a weight file|damaged|refused")
    refused(tmp_path / "absent.pth", "no such")
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "archive.pth", "not a file of torch.save")


def zip_that_declares(path: Path, count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Path:
    """A torch file of one tensor whose storage says `count` floats and holds 16."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuild_tensor_v2, (Storage(), 0, size, stride, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(thing, Storage) else None

    data = io.BytesIO()
    Pickler(data, protocol=2).dump({"head.0.weight": Tensor()})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data/0", bytes(64))
    return path


@pytest.mark.parametrize(
    ("count", "size", "stride"),
    [
        (2_500_000_000, (2_500_000_000,), (1,)),  # 10 GB where 64 bytes are
        (16, (2_500_000_000,), (0,)),  # 64 bytes repeated to 10 GB
        (16, (4, 5), (5, 1)),
        (16, (-4, -4), (4, 1)),
    ],
)
def test_declared_sizes_are_checked_before_memory_is_taken(
    tmp_path: Path, count: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    path = zip_that_declares(tmp_path / "huge.pth", count, size, stride)
    tracemalloc.start()
    refused(path, "declares")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_declared_size_in_a_safetensors_header(tmp_path: Path) -> None:
    header = b'{"head.0.weight":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
    (tmp_path / "huge.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    refused(tmp_path / "huge.safetensors", "damaged or truncated")


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "good.pth", edsr_state())
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(tmp_path / "small.pth", "compressed")


@pytest.mark.parametrize("name", ["{}/data.pkl", "{}/DATA.PKL", "{}/data/0"])
def test_records_that_come_twice_are_refused(tmp_path: Path, name: str) -> None:
    """The one that is checked need not be the one that torch reads."""
    path = saved(tmp_path / "twice.pth", edsr_state())
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(name.format(archive.namelist()[0].split("/")[0]), b"harmless")
    refused(path, "twice")


def test_wrong_values_are_refused(tmp_path: Path) -> None:
    state = edsr_state()
    refused(saved(tmp_path / "a.pth", state | {"head.0.weight": torch.ones(4, 3, 3, 3, dtype=torch.int64)}), "int64")
    broken = state["tail.1.bias"].clone()
    broken[1] = float("nan")
    refused(saved(tmp_path / "b.pth", state | {"tail.1.bias": broken}), "NaN")
    refused(saved(tmp_path / "c.pth", state | {"tail.1.bias": broken.nan_to_num(float("inf"))}), "NaN or infinite")
    large = broken.double().nan_to_num(1e60)  # finite in the file, and not in the network
    refused(saved(tmp_path / "d.pth", state | {"tail.1.bias": large}), "NaN or infinite")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.bfloat16, torch.float64])
def test_weights_of_every_kind_of_float_are_read(tmp_path: Path, kind: torch.dtype) -> None:
    written = {name: value.to(kind) for name, value in edsr_state().items()}
    save_file(written, tmp_path / "a.safetensors")
    content = files.read(tmp_path / "a.safetensors")
    expected = {name: torch.zeros(value.shape) for name, value in written.items()}
    assert load.fitting(content.path, expected, content.data).keys() == written.keys()
    broken = {**written, "head.0.bias": written["head.0.bias"].float().fill_(torch.nan).to(kind)}
    with pytest.raises(CheckpointError, match=r"head\.0\.bias holds NaN"):
        load.fitting(content.path, expected, broken)


def test_a_network_of_absurd_width_is_refused_without_building_it(tmp_path: Path) -> None:
    state = edsr_state() | {"head.0.weight": torch.zeros(60_000, 3, 3, 3), "head.0.bias": torch.zeros(60_000)}
    refused(saved(tmp_path / "wide.pth", state), "do not fit the network")
    state = edsr_state() | {"body.999999999.body.0.weight": torch.zeros(4, 4, 3, 3)}
    refused(saved(tmp_path / "deep.pth", state), "do not fit the network")


@pytest.mark.parametrize(
    ("encoder", "upsampler"),
    [
        ({"name": "edsr", "arguments": {"channels": 8, "blocks": 9_999}}, {"name": "liif", "arguments": {}}),
        ({"name": "rcan", "arguments": {"groups": 30, "blocks": 30}}, {"name": "liif", "arguments": {}}),
        ({"name": "swinir", "arguments": {"depths": [2, 900]}}, {"name": "liif", "arguments": {}}),
        ({"name": "edsr", "arguments": {}}, {"name": "liif", "arguments": {"hidden": [4] * 1_000}}),
    ],
    ids=["blocks", "groups of blocks", "depths", "hidden layers"],
)
def test_more_layers_than_tensors_are_refused_before_any_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any, upsampler: Any
) -> None:
    tensors = {f"{k}.weight": torch.zeros(1) for k in range(500)}
    native.write(
        tmp_path / "deep.safetensors", tensors, "super_resolver", {"encoder": encoder, "upsampler": upsampler}, {}
    )
    monkeypatch.setattr(load, "fill", lambda *_: pytest.fail("built"))
    refused(tmp_path / "deep.safetensors", "layers, and it holds 500 tensors")


def test_what_a_file_says_cannot_command_a_terminal(tmp_path: Path) -> None:
    encoder, upsampler = {"channels": 8, "blocks": 1}, {"hidden": [4]}
    parts = {"encoder": {"name": "edsr", "arguments": encoder}, "upsampler": {"name": "liif", "arguments": upsampler}}
    arguments: dict[str, Any] = {**parts, "mean": [0.5] * 3, "std": [0.5] * 3}
    weights = super_resolver(**arguments).state_dict()
    about = {"licence": "\x1b[31mred\nparameters  1", "network": "\x1b]0;title\x07"}
    native.write(tmp_path / "escape.safetensors", weights, "super_resolver", arguments, about)
    lines = compat.describe(tmp_path / "escape.safetensors").lines()
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[31mred\\nparameters" in line for line in lines)
    with pytest.raises(CheckpointError, match=r"\\x1b\[31m") as caught:
        compat.load(saved(tmp_path / "names.pth", edsr_state() | {"\x1b[31mred": torch.zeros(1)}))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("widths", [[], [8, 4], [4, 9], [0, 8]])
def test_settings_that_a_constructor_refuses_are_the_files_fault(tmp_path: Path, widths: list[int]) -> None:
    backbone = {"name": "fsrcnn", "channels": 8, "scale": 4}
    settings = {"backbone": backbone, "widths": widths, "bins": 4, "costs": [0.0, 0.5, 1.0]}
    weights = {f"{number}.weight": torch.rand(2) for number in range(4)}
    native.write(tmp_path / "x.safetensors", weights, "arm", settings, {})
    refused(tmp_path / "x.safetensors", "they rise and end with its own")


def test_absurd_metadata_builds_nothing(tmp_path: Path) -> None:
    tensors = {"head.weight": torch.rand(2)}
    encoder = {"name": "edsr", "arguments": {"channels": 64, "blocks": 10**9}}
    absurd: list[Any] = [{"encoder": encoder}, {"encoder": {}}, {"encoder": 3}, [], {"x": 1}]
    for arguments in absurd:
        native.write(tmp_path / "x.safetensors", tensors, "super_resolver", arguments, {}, overwrite=True)
        refused(tmp_path / "x.safetensors", "absurd size|malformed")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mangled_state_dicts_raise_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    state: dict[Any, Any] = dict(edsr_state())
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(state, key=str)))
        values = [torch.zeros(()), torch.zeros(0), torch.ones(3), torch.zeros(2, 2, 2, 2, 2), None, 3, "x", {}]
        change = data.draw(st.sampled_from(["drop", "rename", *range(len(values))]))
        value = state.pop(name)
        if isinstance(change, int):
            state[name] = values[change]
        elif change == "rename":
            state[data.draw(st.sampled_from(["x", 7, "encoder.x", "tail.0.2.weight", "body.1.body.0.weight"]))] = value
    wrapped = data.draw(
        st.sampled_from(
            [
                state,
                {"model": {"name": "edsr", "args": {}, "sd": state}},
                {"model": {"name": "liif", "args": 3, "sd": state}},
                {"params": state},
                {"state_dict": {f"generator.{name}": value for name, value in state.items()}},
                {"model_state_dict": state},
            ]
        )
    )
    with contextlib.suppress(CheckpointError):
        compat.load(saved(tmp_path / "mangled.pth", wrapped))


def test_half_precision_weights_become_float(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in edsr_state().items()}
    model = compat.load(saved(tmp_path / "half.pth", state)).model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("legacy", [False, True])
def test_old_and_new_torch_files_are_read(tmp_path: Path, legacy: bool) -> None:
    state = edsr_state()
    content = files.read(saved(tmp_path / "file.pth", state, legacy=legacy))
    assert all(torch.equal(content.data[name], value) for name, value in state.items())


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", edsr_state())
    state = torch.get_rng_state()
    assert isinstance(compat.load(path).model.encoder, EDSR)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "bomb", [b"\x80\x02]r\xff\xff\xff\x7f.", b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b"."]
)
def test_a_few_bytes_do_not_fill_the_memory(tmp_path: Path, legacy: bool, bomb: bytes) -> None:
    """A memo index, for which the unpickler in C makes room up to there; a byte array, which is filled with zeros."""
    path = tmp_path / "bomb.pth"
    if legacy:
        path.write_bytes(bomb)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bomb/data.pkl", bomb)
    with pytest.raises(CheckpointError):
        files.read(path)
