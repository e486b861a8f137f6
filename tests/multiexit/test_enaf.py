"""ENAF: real exits of three networks, the estimator on the whole image, its rule, and the published numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoders.windowed import parameters
from multiexit.several_paths import PathTests, check_five, waves
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalewise import compat, pipeline
from scalewise.checkpoints.patch_networks import enaf
from scalewise.errors import CheckpointError, InvalidRequest
from scalewise.evaluate.conventions import path_flops
from scalewise.models.patchwise import PatchwiseModel
from scalewise.multiexit.enaf import (
    CARNExits,
    ExitNetwork,
    FSRCNNExits,
    SRResNetExits,
    estimator_loss,
    exit_loss,
    patch_psnr,
)
from scalewise.routing.estimator import ENAF_COSTS, ENAFRouter, PatchEstimator, edges_of

NETWORKS = {
    "fsrcnn": lambda: FSRCNNExits(8, 4, (4, 6)),
    "carn": lambda: CARNExits(16, 4, (4, 8)),
    "srresnet": lambda: SRResNetExits(8, 11),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> ExitNetwork:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


def loud(estimator: PatchEstimator) -> PatchEstimator:
    """One whose outputs differ from place to place, as a trained one's do."""
    for layer in estimator.cells:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return estimator.eval()


@pytest.mark.parametrize(
    ("build", "count"), [(FSRCNNExits, 102_893), (CARNExits, 395_093 - 24), (SRResNetExits, 1_996_333)]
)
def test_published_parameter_counts(build: Callable[[], ExitNetwork], count: int) -> None:
    """CARN-M's file also holds its frozen mean shift, 24 numbers."""
    with torch.device("meta"):
        assert parameters(PatchEstimator(4)) == 60_068
        assert parameters(build(), PatchEstimator(4)) == count


class TestENAF(PathTests):
    pass


@torch.no_grad()
def test_every_exit_is_what_run_gives(network: ExitNetwork) -> None:
    patches = torch.rand(2, 3, 9, 8)
    for path, picture in enumerate(network.every_exit(patches)):
        torch.testing.assert_close(network.run(patches, torch.full((2,), path)), picture, rtol=0, atol=1e-5)


@torch.no_grad()
def test_path_0_is_torch_bicubic_of_the_patch(network: ExitNetwork) -> None:
    patches = torch.rand(3, 3, 7, 10)
    expected = F.interpolate(patches, scale_factor=4, mode="bicubic", align_corners=False)
    torch.testing.assert_close(network.run(patches, torch.zeros(3, dtype=torch.int64)), expected, rtol=0, atol=2e-6)


def test_a_patch_that_left_is_not_computed_any_further() -> None:
    """By the counter, on a batch of all exits: the sum of each one's own cost."""
    network = SRResNetExits(8, 11).eval()
    choice = torch.tensor([3, 0, 1, 2, 1])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.run(torch.rand(5, 3, 8, 8), choice)
    assert counter.get_total_flops() // 2 == sum(network.path_macs(int(k), (8, 8)).total for k in choice)


def test_srresnet_is_deeper_than_its_first_exit() -> None:
    with pytest.raises(InvalidRequest, match="9 blocks"):
        SRResNetExits(8, 8)


@torch.no_grad()
@pytest.mark.parametrize("size", [(61, 74), (32, 60)])
def test_one_look_at_the_image_equals_a_look_at_every_patch(size: tuple[int, int]) -> None:
    estimator, lr = loud(PatchEstimator(4)), torch.rand(1, 3, *size)
    rows, columns = ([*range(0, n - 32, 28), n - 32] for n in size)
    found = estimator.on_image(lr, rows, columns, (32, 32))
    rows, columns = ([n // 4 * 4 for n in axis] for axis in (rows, columns))  # whole cells
    patches = torch.cat([lr[..., y : y + 32, x : x + 32] for y in rows for x in columns])
    atol = 3e-6 * max(1.0, float(found.abs().max()))
    torch.testing.assert_close(found.flatten(1).T, estimator(patches), rtol=0, atol=atol)


@torch.no_grad()
def test_other_sides_and_starts_are_looked_at_one_by_one() -> None:
    estimator, lr = loud(PatchEstimator(3)), torch.rand(1, 3, 40, 41)
    found = estimator.on_image(lr, [0, 5], [0, 3, 9], (17, 30))
    torch.testing.assert_close(found[:, 1, 2], estimator(lr[..., 5:22, 9:39])[0])
    assert estimator(torch.rand(2, 3, 1, 3)).shape == (2, 3)  # smaller than a cell


def test_the_estimator_costs_what_the_counter_says() -> None:
    estimator = PatchEstimator(4)
    with FlopCounterMode(display=False) as counter:
        estimator.cells(torch.rand(1, 3, 64, 36))
    assert counter.get_total_flops() // 2 == estimator.macs((64, 36)).router


@torch.no_grad()
def test_blank_patches_prefer_bicubic_by_the_bonus() -> None:
    router = ENAFRouter((0.0, 1.0, 2.0, 4.0))
    lr = torch.full((1, 3, 32, 60), 0.3)
    lr[..., 32:] = torch.rand(1, 3, 32, 28)
    evidence = router.evidence(lr, [0], [0, 28], (32, 32))
    scores = edges_of(lr, [0], [0, 28], (32, 32), truncate=True)
    assert float(scores[0, 0]) == pytest.approx(0, abs=10) and float(scores[0, 1]) > 10
    plain = -router.estimator.on_image(lr, [0], [0, 28], (32, 32)).double()
    torch.testing.assert_close(evidence - plain, torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).double().view(4, 1, 2))


def test_the_rule_on_worked_numbers() -> None:
    router = ENAFRouter((0.0, 100.0, 200.0, 400.0))  # shares 0, 1/4, 1/2, 1
    evidence = torch.tensor([28.0, 28.4, 28.45, 28.6]).double().view(4, 1, 1)
    for eta, path in ((0.0, 3), (0.25, 3), (0.28, 1), (1.0, 1), (2.0, 0)):
        assert int(router.native(evidence, eta)) == path
    torch.testing.assert_close(router.gain(evidence), -(10 ** (-evidence / 10)))


def test_losses_on_worked_numbers() -> None:
    hr = torch.full((1, 3, 16, 16), 0.5)
    pictures = [hr + 0.1, hr + 0.01, hr - 0.02, hr]
    assert float(exit_loss(pictures, hr)) == pytest.approx(0.03, rel=1e-4)
    psnr = patch_psnr(pictures, hr)
    torch.testing.assert_close(psnr[0, :2], torch.tensor([20.0, 40.0]), rtol=0, atol=1e-3)
    assert psnr[0, 3].isinf()  # left out
    estimate = torch.tensor([[-21.0, -40.0, float(-psnr[0, 2]) + 3, -7.0]])
    assert float(estimator_loss(estimate, psnr)) == pytest.approx((1 + 0 + 3 + 0) / 4, abs=1e-3)


def test_training_reaches_every_parameter(network: ExitNetwork) -> None:
    exit_loss(network.train().every_exit(torch.rand(2, 3, 8, 8)), torch.rand(2, 3, 32, 32)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (33, 70)])
def test_any_image_runs(size: tuple[int, int]) -> None:
    model = enaf("fsrcnn", {"channels": 8, "shrink": 4, "widths": [4, 6]}, (0.0, 1.0, 2.0, 3.0), 1.0, 10.0).eval()
    picture = torch.randint(0, 256, (*size, 3), dtype=torch.uint8).numpy()
    for budget in ("eta=0.5", None):
        report = pipeline.upscale(picture, scale=4, budget=budget, model=model).report
        assert 0 < report.share <= 1


# --- the published weights --------------------------------------------------------------------------------------------

FSRCNN_NUMBERS = (
    ".500668 .274917 -.034877 .669755 .638052",
    ".501764 .297650 .197568 .733304 .500588",
    ".516915 .306659 .180877 .822643 .628091",
    ".502492 .333038 .031307 .823354 .569305",
)
CARN_NUMBERS = (
    FSRCNN_NUMBERS[0],  # bicubic
    ".515077 .347333 .081960 .814857 .513561",
    ".500689 .356085 .015171 .825210 .471655",
    ".498360 .351497 -.003634 .998186 .507959",
)
ESTIMATES = {
    "fsrcnn": (-10.602775, -11.636270, -11.782210, -11.823589),
    "carn": (-8.151961, -10.030375, -10.190394, -10.114341),
}


@torch.no_grad()
@pytest.mark.parametrize(("name", "numbers"), [("fsrcnn", FSRCNN_NUMBERS), ("carn", CARN_NUMBERS)])
def test_published_weights_give_the_published_numbers(shared: Path, name: str, numbers: tuple[str, ...]) -> None:
    model: Any = compat.load(shared / "weights" / f"{name}_eunaf.t7").model
    for path, expected in enumerate(numbers):
        check_five(model.network.run(waves(), torch.tensor([path])), expected)
    torch.testing.assert_close(model.router.estimator(waves()), torch.tensor([ESTIMATES[name]]), rtol=0, atol=1e-4)
    assert model.router.costs == ENAF_COSTS[name]


@pytest.mark.parametrize(("name", "tensors"), [("fsrcnn", 40), ("carn", 78)])
def test_missing_and_unknown_tensors_are_listed(shared: Path, tmp_path: Path, name: str, tensors: int) -> None:
    state: dict[str, Tensor] = torch.load(shared / "weights" / f"{name}_eunaf.t7", "cpu", weights_only=True)
    assert len(state) == tensors
    path = tmp_path / "weights.t7"
    torch.save(state | {"surplus.x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"surplus\.x"):
        compat.load(path)
    last = "predictors.1.0.bias"
    torch.save({key: value for key, value in state.items() if key != last}, path)
    with pytest.raises(CheckpointError, match=r"network\.heads\.1\.0\.bias"):
        compat.load(path)


@pytest.mark.parametrize("name", ENAF_COSTS)
def test_costs_as_the_paper_counts_them(name: str) -> None:
    """Within the bias and activations that its tool adds: 0.75%, and less than 0.1% for the whole FSRCNN."""
    build: Any = {"fsrcnn": FSRCNNExits, "carn": CARNExits, "srresnet": SRResNetExits}[name]
    with torch.device("meta"):
        model = PatchwiseModel(ENAFRouter(ENAF_COSTS[name]), build())
    found = path_flops(model.to_empty(device="cpu"))
    for counted, printed in zip(found[1:], ENAF_COSTS[name][1:], strict=True):
        assert 0.992 * printed < counted / 1e6 <= printed * 1.00001
