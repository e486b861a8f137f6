"""--dtype int8: which model runs, what is cached, tiles and budgets; and where it cannot be."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.exits import toy_exits

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.errors import InvalidRequest
from scalewise.execution import eight_bits
from scalewise.execution.checkpoint import request_of
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.machine.device import fast_int8
from scalewise.models import multi_exit
from scalewise.models.digest import digest_of_model
from scalewise.models.model import RoutePlan
from scalewise.models.multi_exit import MultiExitModel
from scalewise.pipeline import upscale

CPU = torch.device("cpu")
INT8 = RunOptions(device="cpu", dtype="int8")
needs_vnni = pytest.mark.skipif(not fast_int8(CPU), reason="the processor has no VNNI")


@pytest.fixture
def model() -> MultiExitModel:
    return toy_exits(8, (1, 2), (3, 3)).requires_grad_(False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "scalewise" / "int8"


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.kron(noise, np.ones((8, 8, 1), np.uint8))[:height, :width]


@needs_vnni
def test_the_copy_is_made_once_and_its_spans_are_cached(model: MultiExitModel, cache: Path) -> None:
    own, _, notes = eight_bits.number_type(model, INT8, CPU)
    assert own is not model and not notes
    assert eight_bits.number_type(model, INT8, CPU)[0] is own
    (path,) = cache.iterdir()
    known = json.loads(path.read_text())
    assert torch.equal(torch.tensor(known["spans"]), eight_bits.spans_of(model))
    path.write_text(json.dumps(known | {"spans": [[0.0, 1.0, 0.0, 2.0]] * 2}))
    assert eight_bits.spans_of(model).tolist() == [[0.0, 1.0, 0.0, 2.0]] * 2


def test_weights_that_are_changed_in_place_are_copied_again(
    model: MultiExitModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bits, "fast_int8", lambda device: True)
    monkeypatch.setattr(MultiExitModel, "in_eight_bits", lambda own, spans: copy.deepcopy(own))

    def copied() -> Any:
        return eight_bits.number_type(model, INT8, CPU)[0]

    before = copied()
    assert copied() is before
    for weight in model.network.blocks.parameters():
        weight.data.mul_(0.5)  # no version counter tells of this
    after = copied()
    assert digest_of_model(before) != digest_of_model(after) == digest_of_model(model)
    assert copied() is after
    assert len(list(cache.iterdir())) == 2  # and its spans are measured again


@needs_vnni
@pytest.mark.parametrize(
    "damage",
    ['{"version"', "[]", "[" * 100_000, '{"spans": [[0, 1]], "version": 1}', '{"spans": "no"}', '{"spans": [0, 1]}'],
)
def test_a_damaged_cache_is_measured_again(model: MultiExitModel, cache: Path, damage: str) -> None:
    spans = eight_bits.spans_of(model)
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.write_text(damage)
    assert torch.equal(eight_bits.spans_of(model), spans)
    assert path.read_bytes() == content


@pytest.mark.parametrize("spans", [[1.0, 2.0, 0.0, 1.0], [2.0, -2.0, 0.0, 1.0], [-3e38, 3e38, 0.0, 1.0]])
def test_cached_spans_that_cannot_be_are_measured_again(model: MultiExitModel, cache: Path, spans: list[float]) -> None:
    measured = eight_bits.spans_of(model)
    (path,) = cache.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spans": [spans] * 2}))
    assert torch.equal(eight_bits.spans_of(model), measured)


def test_a_cache_that_cannot_be_written_is_left_alone(model: MultiExitModel, cache: Path) -> None:
    (cache / f"{digest_of_model(model)}.json").mkdir(parents=True)  # no file can have this name
    assert eight_bits.spans_of(model).shape == (2, 4)


def test_calibration_sees_photos_and_hard_edges() -> None:
    content = (Path(eight_bits.__file__).parents[1] / "weights" / "crops.png").read_bytes()
    crops = eight_bits.calibration(content)
    assert crops.shape == (64, 3, 64, 64)
    photos, hard = crops.chunk(2)
    assert len(photos.unique()) > 200 and set(hard.unique().tolist()) == {0.0, 1.0}


@needs_vnni
@pytest.mark.parametrize("scale", [2.0, 2.7])
def test_tiles_equal_the_whole_picture_to_a_level(cache: Path, scale: float) -> None:
    whole, tiled = (upscale(picture(96, 130), scale, dtype="int8", device="cpu", tile=tile) for tile in (None, 64))
    assert np.abs(whole.image.astype(int) - tiled.image).max() <= 1


@needs_vnni
@pytest.mark.parametrize("projection", ["flat", "erp"])
def test_runs_of_patches_equal_patches_computed_alone(
    model: MultiExitModel, cache: Path, projection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, in tiles too that go around the seam of a panorama and over its poles."""
    real_plan, real_joined, widths = MultiExitModel.plan, multi_exit.joined, set()

    def scattered(*given: Any) -> RoutePlan:
        plan = real_plan(*given)
        generator = torch.Generator().manual_seed(3)
        choice = torch.randint(0, 3, plan.route[0].choice.shape, generator=generator)
        return replace(plan, route=(replace(plan.route[0], choice=choice),))

    def noted(boxes: torch.Tensor) -> torch.Tensor:
        together = real_joined(boxes)
        widths.update((together[:, 3] - together[:, 1]).tolist())
        return together

    def run() -> np.ndarray:
        asked: dict[str, Any] = {"projection": projection, "dtype": "int8", "device": "cpu", "tile": 48}
        return upscale(picture(64, 128), 2.7, model=model, **asked).image

    monkeypatch.setattr(MultiExitModel, "plan", scattered)
    monkeypatch.setattr(multi_exit, "joined", noted)
    together = run()
    assert max(widths) > 16
    monkeypatch.setattr(multi_exit, "joined", lambda boxes: boxes)
    assert np.array_equal(run(), together)


@needs_vnni
def test_a_run_in_eight_bits_does_not_go_on_from_another(model: MultiExitModel, cache: Path, tmp_path: Path) -> None:
    images.save(tmp_path / "in.png", picture(16, 16))
    source, budget = images.open(tmp_path / "in.png"), Budget.full()
    requests = [
        request_of(plan_run(source, (32, 32), model, budget, options), model, budget, tmp_path / "out.png")
        for options in (INT8, RunOptions(device="cpu"))
    ]
    assert [name for name, value in requests[0].items() if requests[1][name] != value] == ["dtype"]


@needs_vnni
def test_a_budget_holds_in_eight_bits(cache: Path) -> None:
    report = upscale(picture(96, 130), 2, dtype="int8", device="cpu", budget=0.6).report
    assert 0.5 < report.macs / report.macs_full <= 0.6


@needs_vnni
def test_eight_bits_are_near_floating_point(cache: Path) -> None:
    image = picture(64, 80)
    exact = upscale(image, 2, dtype="fp32", device="cpu").image.astype(float)
    found = upscale(image, 2, dtype="int8", device="cpu").image.astype(float)
    assert 0 < np.square(exact - found).mean() < 2  # of levels: more than 45 dB


def test_without_vnni_a_note_says_what_was_used(model: MultiExitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bits, "fast_int8", lambda device: False)
    own, dtype, notes = eight_bits.number_type(model, INT8, CPU)
    assert own is model and dtype in (torch.bfloat16, torch.float32)
    assert notes and "VNNI" in notes[0]


def test_other_networks_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="int8 is only for networks with exits"):
        upscale(picture(16, 16), 2, model=zoo.load("bicubic", device="cpu"), dtype="int8", device="cpu")


def test_weights_that_are_damaged_are_refused(model: MultiExitModel, cache: Path) -> None:
    model.network.stem.weight.data[0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match="not finite"):
        eight_bits.spans_of(model)
    assert not cache.exists()
