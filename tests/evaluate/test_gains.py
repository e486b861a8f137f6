"""Gains measured on photos: what they say, where they are kept, and that a budget spends by them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from scalewise import zoo
from scalewise.budget.budget import Budget
from scalewise.budget.gains import GainCurve
from scalewise.budget.quality import sidecar
from scalewise.cli import app
from scalewise.encoders.plain_stack import ECBSR
from scalewise.errors import DataError
from scalewise.evaluate.gains import measure_gains
from scalewise.execution.plan import RunOptions
from scalewise.geometry.resize import imresize
from scalewise.models.partial import CELL, PartialModel, photo_like
from scalewise.models.whole_network import Measured, Needs, WholeNetwork
from scalewise.upsamplers.fixed import RepeatedShuffle


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a", (128, 160)), ("b", (140, 130))):
        pixels = (photo_like(size).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


class Brighter(nn.Module):
    """Bicubic, five levels brighter."""

    def forward(self, picture: Tensor) -> Tensor:
        return imresize(picture, scale=2.0) + 5 / 255


def test_a_network_that_harms_gains_nothing(photos: Path) -> None:
    model = WholeNetwork(Brighter(), 2, Needs(), Measured(4, 0.0, 9.0, 0.0, 100.0)).eval()
    curve = measure_gains(model, photos, 2, "default", RunOptions(dtype="fp32", device="cpu"))
    assert curve is not None and all(gain == 0 for _, gain in curve.points)


def test_a_budget_spends_by_the_curve() -> None:
    """Half of a picture is faint: a curve that says that nothing is gained there leaves it to bicubic."""
    model = WholeNetwork(Brighter(), 2, Needs(), Measured(0, 0.0, 1e4, 0.0, 100.0)).eval()
    partial, lr, size, out = PartialModel(model), photo_like((128, 128)).unsqueeze(0), (128, 128), (256, 256)
    lr[..., :64] = 0.5 + 0.2 * (lr[..., :64] - 0.5)
    score = partial.score(lr, (2.0, 2.0))

    def taken_of_the_faint() -> float:
        taken = partial.plan(score, size, out, Budget.fraction(0.85)).route[0].choice[0] > 0
        assert bool(taken[:, 9:].any())
        return float(taken[:, : 64 // CELL].float().mean())

    assert taken_of_the_faint() > 0.1
    model.gains = GainCurve(((float(score[0, :, :8].max()), 0.0), (float(score.max()), 1.0)))
    assert taken_of_the_faint() == 0


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder, tail = ECBSR(6, 1), RepeatedShuffle(6, 2)
    state = {f"backbone.{n}.conv3x3.{key}": value for n, conv in enumerate((encoder.head, encoder.layers[0], tail.conv))
             for key, value in conv.state_dict().items()}  # fmt: skip
    path = tmp_path / "small.pth"
    torch.save(state, path)
    return path


def calibrated(path: Path, photos: Path) -> GainCurve | None:
    command = ["calibrate", "-n", str(path), "--data", str(photos), "-s", "2", "--budgets", "50,100", "--keep"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return zoo.load_file(path, "small").model.gains


def test_calibrating_a_file_keeps_its_gains(photos: Path, small: Path) -> None:
    assert zoo.load_file(small, "small").model.gains is None
    found = calibrated(small, photos)
    assert found is not None and found.points == tuple(sorted(found.points))


def test_flat_pictures_say_nothing_of_gains(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    Image.new("RGB", (64, 48), (120, 90, 30)).save(folder / "a.png")
    assert calibrated(small, folder) is None


def test_gains_that_are_none_are_refused(photos: Path, small: Path) -> None:
    calibrated(small, photos)
    kept = sidecar(small)
    curves = json.loads(kept.read_text())
    kept.write_text(json.dumps([curves[0] | {"gains": [[0.0, 1.0]]}]))
    with pytest.raises(DataError, match="holds no calibration"):
        zoo.load_file(small, "small")
