"""APE: leaving early equals taking that exit, decisions per patch, costs that equal the counter's, budgets, tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.windowed import parameters
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scalewise import compat
from scalewise.budget.budget import Budget
from scalewise.checkpoints import native
from scalewise.checkpoints.patch_networks import patch_exits
from scalewise.encoders.edsr import EDSR
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.geometry.grid import Box, Frame
from scalewise.geometry.tiling import plan_tiles
from scalewise.models.early_exit import EarlyExitModel, going_on
from scalewise.models.model import Rendered
from scalewise.multiexit.ape import APE, capacity_loss
from scalewise.multiexit.ape_backbones import BackboneAPE
from scalewise.multiexit.paths import Backbone
from scalewise.pipeline import upscale
from scalewise.upsamplers.fixed import PixelShuffle

SIZE, OUT = (27, 34), (54, 68)
WHOLE: Box = (0, 0, *SIZE)


@pytest.fixture(scope="module")
def model() -> EarlyExitModel:
    """Eight-pixel patches; a regressor that has opinions."""
    torch.manual_seed(0)
    network = APE(8, 8, interval=2, scale=2, res_scale=1.0)
    torch.nn.init.normal_(network.regressor.weight, std=0.05)
    return EarlyExitModel(network, patch=8, step=7).eval()


@pytest.fixture(scope="module")
def lr() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(1, 3, *SIZE, generator=generator) - 0.5) * torch.linspace(0, 1, SIZE[1]) + 0.5


def network_of(model: EarlyExitModel) -> APE:
    assert isinstance(model.network, APE)
    return model.network


def render(model: EarlyExitModel, lr: Tensor, budget: Budget, core: Box = WHOLE, source: Box = WHOLE) -> Rendered:
    y0, x0, y1, x1 = source
    plan = model.plan(None, SIZE, OUT, budget)
    return model.render(lr[..., y0:y1, x0:x1], Frame(SIZE, (y0, x0)), core, OUT, plan)


def middle_threshold(model: EarlyExitModel, lr: Tensor) -> float:
    """One that some patches reach early, and some never."""
    patches = torch.cat([lr[..., y : y + 8, x : x + 8] for y in (0, 9, 18) for x in (0, 9, 18, 26)])
    with torch.no_grad():
        return float(torch.stack(network_of(model)(patches)[1]).median())


BACKBONES = (
    Backbone("fsrcnn", 8, shrink=4, mean=(0.4, 0.5, 0.6)),
    Backbone("carn", 8, groups=2),
    Backbone("srresnet", 8, blocks=4),
)


@torch.no_grad()
@pytest.mark.parametrize("backbone", [None, *BACKBONES], ids=lambda one: one.name if one else "edsr")
def test_leaving_at_an_exit_equals_taking_it(model: EarlyExitModel, backbone: Backbone | None) -> None:
    torch.manual_seed(0)
    network, patches = network_of(model), torch.rand(10, 3, 8, 8)
    if backbone is not None:
        network = BackboneAPE(backbone).eval()
    pictures, capacities = network(patches)
    exits = torch.randint(0, network.paths, (10,), generator=torch.Generator().manual_seed(2))
    there = torch.arange(10)

    def stays(path: int, capacity: Tensor) -> Tensor:
        nonlocal there
        torch.testing.assert_close(capacity, capacities[path][there], rtol=1e-4, atol=1e-6)
        on = exits[there] > path
        there = there[on]
        return on

    found, at = network.run_while(patches, stays, chunk=3)
    assert torch.equal(at, exits)
    expected = torch.stack([pictures[path][i] for i, path in enumerate(exits.tolist())])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda one: one.name)
def test_the_last_exit_is_the_backbone_and_exits_cost_what_runs(backbone: Backbone) -> None:
    network, patches = BackboneAPE(backbone).eval(), torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(network(patches)[0][-1], network.network(patches), rtol=0, atol=1e-5)
    whole = network.path_macs(network.paths - 1, (8, 8))
    assert whole.total - whole.router == network.network.macs((8, 8)).total
    for path in range(network.paths if backbone.name != "fsrcnn" else 0):  # whose deconvolution torch counts otherwise
        with FlopCounterMode(display=False) as counter:
            network.run_while(patches, lambda at, capacity, path=path: torch.full_like(capacity, at < path).bool())
        assert counter.get_total_flops() // 2 == network.path_macs(path, (8, 8)).total
    with pytest.raises(InvalidRequest, match="every 5"):
        BackboneAPE(backbone, interval=5)


@torch.no_grad()
def test_by_threshold_a_patch_leaves_at_the_first_exit_that_reaches_it(model: EarlyExitModel, lr: Tensor) -> None:
    threshold = middle_threshold(model, lr)
    patches = torch.cat([lr[..., 3:11, x : x + 8] for x in range(0, 26, 5)])
    capacities = torch.stack(network_of(model)(patches)[1][:-1])
    first = (capacities >= threshold).long()
    expected = torch.where(first.any(0), first.argmax(0), torch.tensor(3))
    stays = lambda path, capacity: capacity < threshold  # noqa: E731
    together = network_of(model).run_while(patches, stays)
    assert torch.equal(together[1], expected) and len(expected.unique()) > 1
    for i in range(len(patches)):
        alone = network_of(model).run_while(patches[i : i + 1], stays)
        assert int(alone[1]) == int(expected[i])
        torch.testing.assert_close(alone[0][0], together[0][i], rtol=0, atol=1e-5)


@torch.no_grad()
def test_macs_are_what_ran_and_the_budget_holds(model: EarlyExitModel, lr: Tensor) -> None:
    spent, full = [], model.plan(None, SIZE, OUT, Budget.full()).macs_full
    budgets = [Budget.fraction(share) for share in (0.55, 0.7, 0.8, 0.9, 1.0)]
    for budget in budgets:
        plan = model.plan(model.score(lr, (2.0, 2.0)), SIZE, OUT, budget)
        with FlopCounterMode(display=False) as counter:
            rendered = render(model, lr, budget)
        assert rendered.macs.total == plan.macs == counter.get_total_flops() // 2
        assert plan.macs <= budget.value * plan.macs_full
        assert rendered.lean <= rendered.macs.total
        assert torch.equal(rendered.rgb, render(model, lr, budget).rgb)
        spent.append(plan.macs)
    assert spent == sorted(spent) and spent[-1] == full and len(set(spent)) == len(spent)
    with pytest.raises(BudgetInfeasible, match="floor") as caught:
        model.plan(None, SIZE, OUT, Budget.fraction(0.05))
    assert caught.value.floor is not None and 0.2 < caught.value.floor < 0.55
    threshold = Budget.native("threshold", middle_threshold(model, lr))
    assert render(model, lr, threshold).macs.total < model.plan(None, SIZE, OUT, threshold).macs
    assert render(model, lr, Budget.native("threshold", 1.0)).macs.total == full


@torch.no_grad()
def test_a_budget_keeps_those_with_most_to_gain(model: EarlyExitModel, lr: Tensor) -> None:
    patches = torch.cat([lr[..., 3:11, x : x + 8] for x in range(0, 26, 3)])
    n = len(patches)
    plan = model.plan(None, SIZE, OUT, Budget.fraction(0.75))
    assert 0 < plan.effort.keep < 1
    _, exits = network_of(model).run_while(patches, model._rule(plan.effort, n))
    assert [int((exits > path).sum()) for path in range(3)] == [
        going_on(n, plan.effort.keep, path) for path in range(3)
    ]
    first = network_of(model)(patches)[1][0]
    assert first[exits > 0].max() <= first[exits == 0].min()


@torch.no_grad()
def test_by_threshold_tiles_equal_the_whole_image(model: EarlyExitModel, lr: Tensor) -> None:
    budget = Budget.native("threshold", middle_threshold(model, lr))
    whole = render(model, lr, budget)
    context = model.limits.context or 0
    for tile in plan_tiles(
        SIZE, OUT, side=14, grid=model.limits.patch_stride, context=context, unit=model.limits.window_multiple
    ):
        part = render(model, lr, budget, tile.core, tile.source)
        y0, x0, y1, x1 = tile.target
        torch.testing.assert_close(part.rgb, whole.rgb[:, y0:y1, x0:x1], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("tile", [None, 14])
def test_the_pipeline_runs_it_and_maps_where_patches_left(model: EarlyExitModel, lr: Tensor, tile: int | None) -> None:
    picture = (lr[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255).astype(np.uint8)
    for budget in ("75%", f"threshold={middle_threshold(model, lr)}"):
        result = upscale(picture, scale=2, budget=budget, model=model, tile=tile)
        report = result.report
        assert report.effort_unit == 7 and report.effort_map.shape == (4, 5)
        assert 0.3 < report.share <= (0.75 if budget == "75%" else 1.0)
        assert float(report.effort_map.max()) > float(report.effort_map.min())


def test_parameters_are_those_of_edsr_and_a_regressor() -> None:
    with torch.device("meta"):
        assert parameters(APE()) == parameters(EDSR(256, 32), PixelShuffle(256, 4)) + 257
        assert APE().paths == 8
    with pytest.raises(InvalidRequest, match="divisor"):
        APE(8, 10, interval=4)


def test_a_file_builds_it_again(tmp_path: Path) -> None:
    arguments = {"channels": 8, "blocks": 4, "interval": 2, "scale": 2, "res_scale": 0.5, "patch": 8, "step": 7}
    model = patch_exits(**arguments)  # type: ignore[arg-type]
    path = tmp_path / "ape.safetensors"
    native.write(path, model.state_dict(), "patch_exits", arguments, {})
    again = compat.load(path).model
    assert isinstance(again, EarlyExitModel) and (again.patch, again.step, again.network.paths) == (8, 7, 2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_loss_on_worked_numbers() -> None:
    """Errors of .1 and .01 are 20 and 40 dB: targets 1 - tanh(20) and 1 - tanh(20), both 0."""
    hr = torch.full((1, 3, 12, 12), 0.5)
    pictures, capacities = [hr + 0.1, hr + 0.01], [torch.tensor([0.3]), torch.tensor([0.2])]
    assert float(capacity_loss(pictures, capacities, hr, shave=2)) == pytest.approx(0.1 + 0.09 + 0.01 + 0.04, rel=1e-4)
    pictures = [hr + 0.1, hr + 0.1 * 10 ** (-0.5 / 20)]  # half a dB more
    target = 1 - np.tanh(0.5)
    expected = 0.1 + 0.09 + 0.1 * 10 ** (-0.5 / 20) + (0.2 - target) ** 2
    assert float(capacity_loss(pictures, capacities, hr, shave=2)) == pytest.approx(expected, rel=1e-4)


def test_training_reaches_every_parameter(model: EarlyExitModel) -> None:
    pictures, capacities = network_of(model)(torch.rand(2, 3, 12, 12))
    capacity_loss(pictures, capacities, torch.rand(2, 3, 24, 24), shave=2).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def test_bf16_is_finite_and_close(model: EarlyExitModel, lr: Tensor) -> None:
    exact = render(model, lr, Budget.full()).rgb
    with torch.autocast("cpu", torch.bfloat16):
        rough = render(model, lr, Budget.full()).rgb
    assert torch.isfinite(rough).all() and float((rough - exact).abs().max()) < 0.1
