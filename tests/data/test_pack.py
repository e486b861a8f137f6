"""Packs: what comes out is what went in, detailed crops first, never larger than allowed; training from one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scalewise.data import read_pack, write_pack
from scalewise.data.crops import detail
from scalewise.errors import DataError

ROOT = Path(__file__).resolve().parent.parent.parent
# Nothing else than torch, lightning, numpy, safetensors and what they bring may be imported.
ALONE = """
import sys
import lightning.pytorch  # it takes what it finds; what we import then is looked at
for name in [name for name in sys.modules if name.split(".")[0] in {blocked}]:
    del sys.modules[name]
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from scalewise.recipes.__main__ import main
sys.exit(main())
"""
BLOCKED = {"pyvips", "PIL", "scipy", "typer", "rich", "jaxtyping", "psutil", "tensorboard", "fastapi"}


def pictures() -> list[torch.Tensor]:
    """Two photos of rising roughness, from left to right."""
    random = np.random.default_rng(0)
    rough = random.integers(-1, 2, (2, 3, 140, 280)) * np.linspace(0, 60, 280)
    return [torch.from_numpy((128 + one).astype(np.uint8)) for one in rough]


def test_a_pack_keeps_the_most_detailed_crops_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "crops.safetensors"
    photos = pictures()
    assert write_pack(path, photos, 70, {"training_data": "noise"}) == 16
    crops, about = read_pack(path)
    assert about == {"training_data": "noise"}
    places = [photo[:, y : y + 70, x : x + 70] for photo in photos for y in (0, 70) for x in range(0, 280, 70)]
    assert all(any(torch.equal(crop, place) for place in places) for crop in crops)
    details = [detail(crop) for crop in crops]
    assert min(details[:4]) > max(details[-4:])
    few = write_pack(path, photos, 70, {}, limit=110_000)
    assert 0 < few < 16 and path.stat().st_size <= 110_000
    assert all(torch.equal(one, other) for one, other in zip(read_pack(path)[0], crops, strict=False))


def test_a_wrong_pack_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crops.safetensors"
    with pytest.raises(DataError, match="300 pixels on both sides"):
        write_pack(path, pictures(), 300, {})
    with pytest.raises(DataError, match="not one crop"):
        write_pack(path, pictures(), 70, {}, limit=70_000)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="no pack of training crops"):
        read_pack(path)
    path.write_text("nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_pack(path)


def test_a_pack_trains_with_torch_lightning_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    pack, out = tmp_path / "crops.safetensors", tmp_path / "out"
    write_pack(pack, pictures(), 136, {"training_data": "noise"})
    words = ["edsr-liif-tiny", "--data", pack, "--out", out, "--steps", "2", "--workers", "0", "--parts"]
    command = [sys.executable, "-c", ALONE.format(blocked=BLOCKED), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_file(out / "edsr-liif-tiny.safetensors")["encoder.head.weight"].isfinite().all()
    assert (out / "parts" / "last.ckpt.part000").exists()
