"""Patch protocols: what one picture is cut into, decided once, counted by path, and what the papers would call it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models.routers import PricedRouter
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from scalewise.budget import cost, quality
from scalewise.budget.budget import Budget
from scalewise.budget.cost import Macs
from scalewise.cli import app
from scalewise.cli.format import reproduced_table
from scalewise.encoders.carn import CARN
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.errors import BudgetInfeasible, DataError, InvalidRequest, ProtocolMismatch
from scalewise.evaluate import PROTOCOLS, bicubic, estimate_errors, evaluate, fuse, paper_cost, predict, upscaler_of
from scalewise.evaluate.conventions import camixer_flops, classsr_flops, path_flops
from scalewise.evaluate.tables import reproduce
from scalewise.evaluate.upscalers import Prediction, Upscaler
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.resize import imresize
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.routing.estimator import EdgeRouter
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution

FP32 = RunOptions(dtype="fp32")
FRAME = Frame((32, 32))


class Paths(nn.Module):
    """The nearest pixel, and one or two convolutions before it."""

    paths, scale = 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def run(self, patches: Tensor, choice: Tensor) -> Tensor:
        taken = []
        for patch, path in zip(patches, choice.tolist(), strict=True):
            for _ in range(path):
                patch = self.layer(patch[None])[0]
            taken.append(patch)
        return F.interpolate(torch.stack(taken), scale_factor=4, mode="nearest")

    def path_macs(self, path: int, side: Size) -> Macs:
        return cost.conv2d(3, 3, 3, *side) * path


class Router(PricedRouter):
    """The mean of a patch is what all paths gain."""

    def evidence(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        means = [[lr[0, :, y : y + side[0], x : x + side[1]].mean() for x in columns] for y in rows]
        return torch.tensor(means) * torch.tensor([0.0, 1.0, 1.5]).view(-1, 1, 1)


@pytest.fixture
def model() -> PatchwiseModel:
    torch.manual_seed(0)
    return PatchwiseModel(Router(), Paths()).eval()


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Darker to the left, so that its patches take different paths."""
    small = torch.rand(3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(seed))
    return (imresize(small, (height, width)).clamp(0, 1) * torch.linspace(0, 1.5, width) * 170).round() / 255


def save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(path)


@pytest.mark.parametrize("name", ["enaf", "classsr"])
@pytest.mark.parametrize("dial", ["eta=0.6", "path=1"])
def test_patches_in_batches_equal_patches_one_by_one(model: PatchwiseModel, name: str, dial: str) -> None:
    lr, upscaler = picture(91, 70), upscaler_of(model, Budget.parse(dial), FP32)

    def alone(lr: Tensor, size: tuple[int, int], scale: float) -> Prediction:
        return upscaler(lr, size, scale)

    together, apart = (predict(run, lr, (364, 280), 4, PROTOCOLS[name]) for run in (upscaler, alone))
    assert together.sr.shape == (3, 4 * 88, 4 * 60)
    torch.testing.assert_close(together.sr, apart.sr, atol=1e-6, rtol=0)
    assert sum(together.paths) == 6 and not apart.paths
    if dial == "eta=0.6":
        assert len([count for count in together.paths if count]) > 1
    else:
        assert together.paths == (0, 6, 0)


def test_a_budget_holds_for_the_picture_and_moves_between_its_patches(model: PatchwiseModel) -> None:
    part = predict(upscaler_of(model, Budget.fraction(0.5), FP32), picture(200, 150), (800, 600), 4, PROTOCOLS["enaf"])
    assert 0.48 <= part.macs / part.macs_full <= 0.5
    assert len([count for count in part.paths if count]) > 1


def test_merged_patches_of_ones_are_exactly_one() -> None:
    for name, size in (("enaf", (116, 88)), ("camixer-large", (130, 101)), ("camixer-large", (64, 64))):
        tiles = PROTOCOLS[name].tiles
        assert tiles is not None
        side = tiles.side(*size)
        starts = [(y, x) for y in tiles.starts(size[0], side) for x in tiles.starts(size[1], side)]
        merged = fuse(((y, x, torch.ones(3, side, side)) for y, x in starts), tiles.area(*size))
        assert torch.equal(merged, torch.ones_like(merged))


def test_the_counts_of_the_papers() -> None:
    """Spec adaptive §10: FSRCNN(56, 12, 4) 467,877,892 and CARN-M 1,154,875,392 FLOPs per patch of 32."""
    patch = torch.zeros(1, 3, 32, 32)
    for encoder, tail, expected in (
        (FSRCNN(), Deconvolution, 467_877_892),
        (CARN(), CascadeTail, 1_154_875_392),
    ):
        network = SuperResolver(encoder, tail(encoder.channels), scales=(4,))
        plan = network.plan(None, (32, 32), (128, 128), Budget.full())
        whole = (0, 0, 32, 32)
        assert classsr_flops(lambda: network.render(patch, FRAME, whole, (128, 128), plan).rgb) == expected  # noqa: B023
    found = [camixer_flops(36, (4, 4, 6, 6), 4, gamma) for gamma in (1, 0.5, 0.25, 0)]
    assert [round(flops / 1e6, 1) for flops in found] == [895.3, 653.5, 532.5, 411.6]


def test_the_cost_is_the_mean_over_patches(model: PatchwiseModel, tmp_path: Path) -> None:
    save(picture(256, 256), tmp_path / "a.png")  # 2 × 2 patches
    save(picture(500, 380, 1), tmp_path / "b.png")  # 4 × 3
    upscaler = upscaler_of(model, Budget.native("eta", 0.6), FP32)
    result = evaluate(upscaler, tmp_path, 4, "enaf")
    assert sum(result.paths) == 16 and len(set(result.paths)) > 1
    each = path_flops(model)
    assert each == [0, 2 * 9 * 9 * 1024, 2 * 2 * 9 * 9 * 1024]
    found = paper_cost(upscaler, result, "classsr")
    assert found.mean == pytest.approx(sum(n * f for n, f in zip(result.paths, each, strict=True)) / 16)
    assert found.share == pytest.approx(found.mean / each[-1]) and f"{found.share:.1%}" in found.words()
    honest = paper_cost(upscaler, result, "honest")
    assert honest.full == pytest.approx(2 * 9 * 9 * 1024 + (60 * 60 + 116 * 88) / 16)
    for wrong, run in (("classsr", bicubic), ("camixer", upscaler), ("mine", upscaler)):
        with pytest.raises(ProtocolMismatch):
            paper_cost(run, result, wrong)
    whole = evaluate(upscaler, tmp_path, 4)
    assert whole.paths == () and "path0" not in whole.mean
    with pytest.raises(ProtocolMismatch, match="protocol classsr, arm or enaf"):
        paper_cost(upscaler, whole, "classsr")


def test_published_rows_are_measured_at_their_dials(model: PatchwiseModel, tmp_path: Path) -> None:
    save(picture(256, 256), tmp_path / "B100/a.png")

    def models(method: str, dial: str) -> Upscaler | None:
        return upscaler_of(model, Budget.parse(dial), FP32)

    rows = reproduce("enaf", tmp_path, models, methods=["enaf-fsrcnn"])
    found = {row.published.dial: row for row in rows if row.published.dataset == "B100"}
    assert found["path=1"].cost is not None and found["path=1"].cost.share == 0.5
    assert found["eta=0.5"].cost is not None and not math.isnan(found["eta=0.5"].ours)
    assert found["path=3"].absent.startswith("path=3 is no path")  # the toy has three
    text = reproduced_table(rows)
    assert "0.2M (50.0%)" in text and "56.2%" in text


def test_native_dials_from_the_command_line(tmp_path: Path) -> None:
    save(picture(64, 64), tmp_path / "a.png")
    for more, words in (
        (["--native", "gamma=0.5"], "has no native dial"),
        (["--native", "half"], "write NAME=VALUE"),
        (["--native", "eta=0.5", "--budget", "50%"], "leave one out"),
        (["--convention", "classsr"], "takes a network that routes patches"),
        (["--convention", "camixer"], "it takes a CAMixerSR"),
    ):
        done = CliRunner().invoke(app, ["evaluate", "-n", "bicubic", "--data", str(tmp_path), "-s", "2", *more])
        assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_curve_is_kept_beside_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "net.pth"

    def run(budget: Budget) -> tuple[float, float, float]:
        if budget.value < 0.5:
            raise BudgetInfeasible("below the floor", 0.5)
        return budget.value, 30 + budget.value, 1.0

    assert quality.read_sidecar(weights) == []
    for scale in (4, 2, 4):
        found = quality.measure(run, (0.25, 0.5, 1.0), scale=scale, protocol="enaf", data="d")
        assert [point.budget for point in found.points] == [0.5, 1.0]
        curves = quality.joined(quality.read_sidecar(weights), found)
        quality.sidecar(weights).write_text(json.dumps(curves))
    assert [curve.scale for curve in quality.read_sidecar(weights)] == [2, 4]
    with pytest.raises(InvalidRequest):
        quality.measure(run, (0.1, 0.2), scale=4, protocol="enaf", data="d")
    quality.sidecar(weights).write_text("[1]")
    with pytest.raises(DataError, match="holds no calibration"):
        quality.read_sidecar(weights)


def test_the_error_of_an_estimate_is_its_distance_from_the_psnr_of_the_patch(tmp_path: Path) -> None:
    """One patch, and a table that says 30 dB of each path."""
    router = EdgeRouter(paths=3, bins=1, costs=(0.0, 1.0, 2.0))
    router.expected.fill_(30.0)
    network = PatchwiseModel(router, Paths()).eval()
    pixels = torch.randint(0, 256, (128, 128, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "one.png")
    found = estimate_errors(upscaler_of(network, options=FP32), tmp_path, 4)
    hr = pixels.permute(2, 0, 1).float() / 255
    lr = (imresize(hr, (32, 32)).clamp(0, 1) * 255).round() / 255
    nearest = F.interpolate(lr[None], scale_factor=4, mode="nearest")[0]
    assert len(found) == 3 and found[0] == pytest.approx(
        abs(30 + 10 * math.log10(float((nearest - hr).square().mean()))), abs=1e-3
    )
    save(pixels.permute(2, 0, 1).float() / 255, tmp_path / "Test2K" / "one.png")
    rows = reproduce(
        "enaf", tmp_path, lambda method, dial: upscaler_of(network, options=FP32), methods=["enaf-srresnet"]
    )
    levels = {row.published.dial: row for row in rows if row.published.metric == "psnr_estimate_mae"}
    assert levels["level 0"].ours == pytest.approx(found[0])
    assert levels["level 3"].absent == "these weights have 3 levels" and math.isnan(levels["level 3"].ours)
    with pytest.raises(ProtocolMismatch, match="only ENAF's and ARM's"):
        estimate_errors(bicubic, tmp_path, 4)
    with pytest.raises(ProtocolMismatch, match="use enaf or arm"):
        estimate_errors(upscaler_of(network, options=FP32), tmp_path, 4, "default")
