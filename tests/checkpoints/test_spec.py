"""Networks as values: wrong arguments are found where they are written, files name them, and what opens is the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scalewise import zoo
from scalewise.checkpoints.patch_networks import patch_exits
from scalewise.checkpoints.spec import Network, Pair, spec, tail
from scalewise.encoders.edsr import EDSR
from scalewise.upsamplers.liif import LIIF

PAIR = Pair(spec(EDSR, channels=4, blocks=1), tail(LIIF, hidden=(8, 4)), base="bilinear")


def test_a_wrong_argument_is_found_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="chanels"):
        spec(EDSR, chanels=64)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="hiden"):
        tail(LIIF, hiden=(8,))  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="channels"):
        tail(LIIF, channels=64)  # pyright: ignore[reportCallIssue]


@pytest.mark.slow
def test_a_type_checker_finds_a_wrong_argument(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("pyright needs node")
    right = ["spec(EDSR, channels=64)", "tail(LIIF, hidden=(8,))"]
    wrong = ["spec(EDSR, chanels=64)", "spec(EDSR, channels='64')"]
    imports = [line for line in Path(__file__).read_text().splitlines() if line.startswith("from scalewise.")]
    (tmp_path / "written.py").write_text("\n".join([*imports, *right, *wrong]))
    command = [sys.executable, "-m", "pyright", "--outputjson", str(tmp_path / "written.py")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    errors = [one for one in found["generalDiagnostics"] if one["severity"] == "error"]
    assert {one["range"]["start"]["line"] - len(imports) for one in errors} == {2, 3}


def test_a_file_names_the_network_and_opens_as_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PAIR.build()
    PAIR.save(model, tmp_path / "pair.safetensors", {"licence": "none"})
    with safe_open(tmp_path / "pair.safetensors", "pt") as file:
        written = file.metadata()
    assert written["builder"] == "super_resolver"
    assert json.loads(written["arguments"]) == {
        "encoder": {"name": "edsr", "arguments": {"channels": 4, "blocks": 1}},
        "upsampler": {"name": "liif", "arguments": {"hidden": [8, 4]}},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "base": "bilinear",
    }
    loaded = zoo.load(tmp_path / "pair.safetensors").model
    assert loaded.base == model.base  # type: ignore[attr-defined]
    state = loaded.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_network_that_is_built_whole_is_named_by_its_builder(tmp_path: Path) -> None:
    network = Network(spec(patch_exits, channels=4, blocks=2, interval=1, scale=2, res_scale=1.0))
    network.save(network.build(), tmp_path / "ape.safetensors", {"licence": "none"})
    with safe_open(tmp_path / "ape.safetensors", "pt") as file:
        assert file.metadata()["builder"] == "patch_exits"
    zoo.load(tmp_path / "ape.safetensors")


def test_what_no_file_can_name_is_refused(tmp_path: Path) -> None:
    class Mine(EDSR):
        pass

    pair = Pair(spec(Mine, channels=4), tail(LIIF))
    with pytest.raises(LookupError, match="Mine has no name"):
        pair.save(pair.build(), tmp_path / "mine.safetensors", {})
