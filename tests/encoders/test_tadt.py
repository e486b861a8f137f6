"""TADT: worked equations, slices equal zeros, routed equals masked, tiles, budgets, and every any-scale upsampler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import product

import pytest
import torch
from encoders.windowed import (
    check_batch_is_one_by_one_and_repeats,
    check_gradients_reach_every_parameter,
    counted_macs,
    measured_reach,
    parameters,
    tile_error,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.route import effort_map
from scalewise.contracts import RoutedEncoder
from scalewise.encoders.tadt import TADT, MultiScaleTransformer
from scalewise.encoders.tadt_block import Block, pooled_position_index
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.geometry.grid import Frame, rectangle
from scalewise.models.super_resolver import SuperResolver
from scalewise.routing.branch import (
    PENALTY,
    TaskController,
    expected,
    intensity_loss,
    likely,
    probabilities,
    straight_through,
)
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

SMALL = {"windows": (2, 4), "global_window": 8, "pooled": 4, "heads": 1, "features": 6}
OWN = Effort(native={"beta": 0.4})


def toy(*, cells: bool = False, rule: str = "expected", groups: int = 2) -> TADT:
    """A controller that has opinions."""
    torch.manual_seed(0)
    net = TADT(12, groups, cells=cells, rule=rule, **SMALL)  # type: ignore[arg-type]
    nn.init.normal_(net.controller.judge.weight, std=5)
    for layer in (net.controller.convs[0], net.controller.convs[2]):
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    nn.init.constant_(net.controller.scale[-1].bias, 0.0)  # type: ignore[arg-type]
    for parameter in net.groups.parameters():
        if parameter.dim() > 1:
            parameter.data *= 5
    return net.eval()


NETS = {cells: toy(cells=cells) for cells in (False, True)}


@pytest.fixture(params=[False, True], ids=["images", "cells"])
def net(request: pytest.FixtureRequest) -> TADT:
    return NETS[request.param]


@pytest.fixture(scope="module")
def lr() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    detail = torch.rand(3, 3, 16, 24, generator=generator) - 0.5
    flat = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]).view(3, 3, 1, 1)
    return (flat + detail) * torch.linspace(0.1, 2, 24)


def scales(b: int, s: float = 2.0) -> Tensor:
    return torch.full((b, 2), s)


def mask_of(net: TADT, size: tuple[int, int], seed: int, b: int = 1) -> Tensor:
    """A random route (b, gy, gx, branches of all groups)."""
    units = (size[0] // net.grid, size[1] // net.grid) if net.cells else (1, 1)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(b, *units, net.controller.branches, generator=generator) < 0.5


# --- the paper's equations on worked numbers --------------------------------------------------------------------------


def test_equation_3() -> None:
    e = torch.tensor([0.0, 0.0, 0.0, -torch.inf])  # sigmoids .5 .5 .5 0
    assert torch.allclose(probabilities(e, torch.tensor(0.3)), torch.tensor([0.4, 0.4, 0.4, 0.0]))
    assert torch.allclose(probabilities(e, torch.tensor(0.9)), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    e = torch.randn(5, 32)
    beta = torch.full((5, 1), 0.2)
    assert torch.allclose(probabilities(e, beta).sum(-1), 32 * beta[:, 0], atol=1e-5)  # nothing is clipped


def test_equation_4_draws_and_passes_the_gradient_straight_through() -> None:
    p = torch.tensor([0.2, 0.5, 0.9, 1.0], requires_grad=True)
    r = straight_through(p, torch.tensor([0.3, 0.499, 0.89, 0.999]))
    assert r.tolist() == [0.0, 1.0, 1.0, 1.0]
    upstream = torch.tensor([3.0, -1.0, 2.0, 0.5])
    r.backward(upstream)
    assert p.grad is not None and torch.equal(p.grad, upstream)
    draws = straight_through(torch.full((20_000,), 0.3), torch.rand(20_000))
    assert float(draws.mean()) == pytest.approx(0.3, abs=0.02)


def test_equations_6_and_7_and_the_weight_of_5() -> None:
    scale = torch.tensor([[2.0, 2.0], [4.0, 4.0], [4.0, 1.0]])  # thresholds .6036, .75, and of ×2 .6036
    beta = torch.tensor([0.7, 0.7, 0.5], requires_grad=True)
    loss = intensity_loss(beta, scale)
    assert loss.item() == pytest.approx(0.7 / 3)
    loss.backward()
    assert beta.grad is not None and torch.allclose(beta.grad, torch.tensor([1 / 3, 0.0, 0.0]))
    assert PENALTY == 2e-4


def test_the_rules_take_the_probable_and_of_equals_the_cheaper() -> None:
    p, costs = torch.tensor([0.9, 0.4, 0.4, 0.3]), torch.tensor([1.0, 5.0, 2.0, 3.0])
    assert expected(p, costs).tolist() == [True, False, True, False]  # the sum is 2
    assert likely(p).tolist() == [True, False, False, False]
    assert not expected(torch.zeros(4), costs).any() and expected(torch.ones(4), costs).all()


def test_a_controller_starts_as_the_baseline() -> None:
    controller = TaskController(32)
    assert parameters(controller) == 11_521
    scale = torch.tensor([[1.0, 1.0], [4.0, 4.0]])
    seen = controller.look(torch.rand(2, 3, 48, 96)).permute(0, 2, 3, 1).mean((1, 2), keepdim=True)
    p = controller(seen, controller.intensity(scale))
    assert p.shape == (2, 1, 1, 32)
    assert p.min().item() > 0.85 and torch.allclose(p, p[..., :1].expand_as(p))


def test_a_look_at_a_piece_is_a_piece_of_the_look() -> None:
    controller = TaskController(8, cell=8)
    lr = torch.rand(1, 3, 24, 32)
    whole = controller.look(lr)
    assert torch.allclose(whole[..., 1:3, 2:], controller.look(lr[..., 8:, 16:]), atol=1e-6)


# --- the trunk --------------------------------------------------------------------------------------------------------


def test_parameters_are_as_printed() -> None:
    with torch.device("meta"):
        assert parameters(MultiScaleTransformer()) == 9_167_616  # printed 9.17 M
    net = toy()
    assert parameters(net) - parameters(MultiScaleTransformer(12, 2, **SMALL)) == parameters(net.controller)  # type: ignore[arg-type]
    assert round(9.18e6, -4) - 863 == 9_167_616 + 11_521  # printed 9.18 M
    assert isinstance(net, RoutedEncoder) and not isinstance(MultiScaleTransformer(12, 1, **SMALL), RoutedEncoder)  # type: ignore[arg-type]


def test_the_trunk_takes_what_the_baseline_takes() -> None:
    baseline, routed = (dict(inspect.signature(net).parameters) for net in (MultiScaleTransformer, TADT))
    own = {"cells", "rule", "scale_input", "fixed_beta"}
    assert {name: argument for name, argument in routed.items() if name not in own} == baseline
    for name, value in {"global_attention": False, "reduction": "random", "mlp_ratio": 3.0, "features": 5}.items():
        trunks = [net(12, 1, **SMALL | {name: value}).state_dict() for net in (MultiScaleTransformer, TADT)]
        shapes = [{key: w.shape for key, w in trunk.items() if not key.startswith("controller")} for trunk in trunks]
        assert shapes[0] == shapes[1], name


def test_pooled_positions_differ_by_pixels_from_the_first_of_a_cell() -> None:
    index = pooled_position_index(8, 4)  # cells of 2 pixels; offsets -6 … 7 on either axis
    assert index.shape == (64, 16) and int(index.min()) == 0 and int(index.max()) == 14 * 14 - 1
    pixel, cell = 3 * 8 + 5, 2 * 4 + 1  # pixel (3, 5), cell at (4, 2)
    assert int(index[pixel, cell]) == (3 - 4 + 6) * 14 + (5 - 2 + 6)


@torch.no_grad()
def test_the_slice_able_projection_equals_the_full_one_with_zeros() -> None:
    torch.manual_seed(0)
    block = Block(16, (2, 4, 8), global_window=8, pooled=4, heads=2, hidden=32).eval()
    x = torch.randn(1, 8, 16, 16)
    for active in product((False, True), repeat=4):
        sliced, zeroed = block(x, active), block(x, None, torch.tensor([active]).float())
        assert float((sliced - zeroed).abs().max()) <= 1e-5
        outcomes = [torch.randn(1, 8, 16, 4) for _ in range(4)]
        full = block.project(torch.cat([o * runs for o, runs in zip(outcomes, active, strict=True)], -1))
        some = block.projected([o for o, runs in zip(outcomes, active, strict=True) if runs], active)
        assert float((full - some).abs().max()) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("b", [1, 3])
def test_routed_equals_masked_dense(net: TADT, lr: Tensor, b: int) -> None:
    size = (16, 24)
    for seed in range(3):
        route = net._grouped(mask_of(net, size, seed, b))
        routed = net(lr[:b], route)
        masked = net.train()(lr[:b], route)
        net.eval()
        assert float((routed - masked).abs().max()) <= 1e-5 * max(1.0, float(masked.abs().max()))
    everything = torch.ones_like(net._grouped(mask_of(net, size, 0, b)))
    torch.testing.assert_close(net(lr[:b], everything), net(lr[:b]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_route_does_not_depend_on_batch_mates(net: TADT, lr: Tensor) -> None:
    frame, scale = Frame((16, 24)), torch.tensor([[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    together = net.encode(lr, frame, scale, OWN, net.route(lr, scale, OWN))
    assert len({tuple(int(d.choice[i].sum()) for d in together.route) for i in range(3)}) > 1
    for i in range(3):
        one = (lr[i : i + 1], scale[i : i + 1])
        alone = net.encode(one[0], frame, one[1], OWN, net.route(*one, OWN))
        assert all(torch.equal(a.choice[0], t.choice[i]) for a, t in zip(alone.route, together.route, strict=True))
        torch.testing.assert_close(alone.features[0], together.features[i], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_macs_are_what_ran(net: TADT, lr: Tensor) -> None:
    baseline = MultiScaleTransformer(12, 2, **SMALL)  # type: ignore[arg-type]
    assert counted_macs(baseline, (16, 24)) == baseline.macs((16, 24), (2.0, 2.0)).total
    plan = net.route(lr[:1], scales(1), OWN)
    with FlopCounterMode(display=False) as counter:
        net.encode(lr[:1], Frame((16, 24)), scales(1), OWN, net.route(lr[:1], scales(1), OWN))
    scale_branch = 1 * 16 + 16 * 16 + 16  # not asked for where β is given
    assert net.macs((16, 24), (2.0, 2.0), plan).total == counter.get_total_flops() // 2 + scale_branch


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="multiple of 8"):
        TADT(36)
    with pytest.raises(InvalidRequest, match="must divide"):
        TADT(32, windows=(4, 8, 20))


def test_batches_and_gradients_of_the_baseline() -> None:
    torch.manual_seed(0)
    net = MultiScaleTransformer(12, 2, **SMALL)  # type: ignore[arg-type]
    check_batch_is_one_by_one_and_repeats(net, (16, 8))
    check_gradients_reach_every_parameter(net, (16, 8))


@pytest.mark.parametrize("axis", [-2, -1])
def test_context_is_what_is_measured(axis: int) -> None:
    torch.manual_seed(0)
    net = MultiScaleTransformer(12, 1, **SMALL)  # type: ignore[arg-type]
    assert net.context is not None and measured_reach(net, axis) <= net.context


@torch.no_grad()
def test_tiles_equal_the_whole_image(net: TADT) -> None:
    """With the plan made on the whole image."""
    net = toy(cells=net.cells, groups=1)
    lr, size = torch.rand(1, 3, 72, 64), (72, 64)
    plan = net.route(lr, scales(1), OWN)
    whole = net.encode(lr, Frame(size), scales(1), OWN, plan).features
    context = net.context or 0
    top, bottom = (32 - context) // 8 * 8, min(72, -(-(40 + context) // 8) * 8)
    tile = net.encode(lr[..., top:bottom, :], Frame(size, (top, 0)), scales(1), OWN, plan)
    assert tile.route[0].choice.shape[1] == ((bottom - top) // 8 if net.cells else 1)
    torch.testing.assert_close(tile.features[..., 32 - top : 40 - top, :], whole[..., 32:40, :], rtol=1e-4, atol=1e-5)
    assert tile_error(MultiScaleTransformer(12, 1, **SMALL), lr, (24, 16, 32, 24), context) < 1e-5  # type: ignore[arg-type]


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_draws_with_the_given_generator_and_reaches_every_parameter(net: TADT, lr: Tensor) -> None:
    generator = net.train().generator = torch.Generator().manual_seed(5)
    frame, scale = Frame((16, 24)), torch.tensor([[1.5, 1.5], [2.0, 3.0], [4.0, 4.0]])
    first = net.encode(lr, frame, scale, Effort(), ())
    generator.manual_seed(5)
    again = net.encode(lr, frame, scale, Effort(), ())
    assert torch.equal(first.features, again.features)
    p = torch.stack([d.evidence for d in first.route], -1)  # type: ignore[arg-type]
    assert p.requires_grad and p.min().item() >= 0 and p.max().item() <= 1
    loss = first.features.square().mean() + PENALTY * intensity_loss(net.controller.intensity(scale), scale)
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert float(net.controller.judge.weight.grad.abs().max()) > 0  # type: ignore[union-attr]
    net.zero_grad(set_to_none=True)
    net.eval().generator = None


# --- budgets ----------------------------------------------------------------------------------------------------------


def upscaler(net: TADT) -> SuperResolver:
    torch.manual_seed(1)
    return SuperResolver(net, LIIF(6, hidden=(16,))).eval()


@torch.no_grad()
def test_a_budget_is_spent_through_the_front_door(net: TADT, lr: Tensor) -> None:
    model, picture, size, out = upscaler(net), lr[2:, :, :13, :20].abs(), (13, 20), (30, 47)
    spent = []
    for share in (0.97, 0.98, 0.99, 1.0):
        with FlopCounterMode(display=False) as counter:
            plan = model.plan(model.score(picture, (30 / 13, 47 / 20)), size, out, Budget.fraction(share))
            rendered = model.render(picture, Frame(size), (0, 0, *size), out, plan)
        assert rendered.macs.total == plan.macs == counter.get_total_flops() // 2 <= share * plan.macs_full
        spent.append(plan.macs)
        again = model.render(picture, Frame(size), (0, 0, *size), out, plan).rgb
        assert torch.allclose(rendered.rgb, again, atol=1e-5)  # counted by plain operators, run by fused ones
    assert spent == sorted(spent) and spent[0] < spent[-1] == plan.macs_full
    assert effort_map(plan.route).shape == ((2, 3) if net.cells else (1, 1))


@torch.no_grad()
def test_native_beta_takes_its_share_of_branches_and_0_the_controllers_own(lr: Tensor) -> None:
    net = toy()
    nn.init.zeros_(net.controller.judge.weight)  # nothing is clipped
    evidence = net.score(lr[:1], (2.0, 2.0))
    running = {
        beta: sum(int(d.choice.sum()) for d in net.allocate(evidence, (16, 24), (2.0, 2.0), 0, beta).route)
        for beta in (0.0, 0.34, 0.5, 1.0)
    }
    own = float(net.controller.intensity(scales(1)))
    assert running == {0.0: round(6 * own), 0.34: 2, 0.5: 3, 1.0: 6}
    with pytest.raises(BudgetInfeasible, match="beta"):
        net.allocate(evidence, (16, 24), (2.0, 2.0), 0, 1.5)


@settings(max_examples=10)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans(), st.integers(0, 9))
def test_the_grant_holds_to_a_branch_and_grows_with_the_limit(low: float, high: float, cells: bool, seed: int) -> None:
    net, size, scale = NETS[cells], (16, 24), (2.0, 2.0)
    evidence = torch.randn(32, 2, 3, generator=torch.Generator().manual_seed(seed))
    full, least = net.macs(size, scale).total, net.allocate(evidence, size, scale, 0, None).macs
    dearest = max(net.branch_macs(j).total for j in range(3)) * (1 if cells else 6)
    low, high = sorted((low, high))
    limits = [least + share * (full - least) for share in (low, high)]
    grants = [net.allocate(evidence, size, scale, limit, None) for limit in limits]
    for limit, grant in zip(limits, grants, strict=True):
        assert limit - dearest <= grant.macs <= max(limit, least) + 1e-3
        assert net.macs(size, scale, grant.route).total == grant.macs
    assert grants[0].macs <= grants[1].macs + dearest


def test_the_floor_is_as_documented() -> None:
    net = TADT()
    evidence = torch.zeros(32, 2, 2)
    floor = net.allocate(evidence, (96, 96), (2.0, 2.0), 0, None).macs / net.macs((96, 96), (2.0, 2.0)).total
    assert floor == pytest.approx(0.766, abs=6e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "upsampler",
    [
        lambda: MetaSR(6, hidden=16),
        lambda: LIIF(6, hidden=(16,)),
        lambda: LTE(6, 8, mlp=(8,)),
        lambda: CiaoSR(6, hidden=(8,)),
    ],
    ids=["metasr", "liif", "lte", "ciaosr"],
)
def test_every_any_scale_upsampler_follows(upsampler: Callable[[], nn.Module], lr: Tensor) -> None:
    torch.manual_seed(2)
    net = toy()
    model = SuperResolver(net, upsampler()).eval()  # type: ignore[arg-type]
    query = rectangle(Frame((13, 20)), (26, 40))
    picture = lr[1:, :, :13, :20].abs().clamp(0, 1)
    routed = model(picture, query, scales(2), OWN)
    assert routed.rgb.shape == (2, 3, 26, 40) and torch.isfinite(routed.rgb).all()
    assert len(routed.route) == 6
    assert not torch.allclose(routed.rgb, model(picture, query, scales(2)).rgb)


@torch.no_grad()
def test_bf16_is_finite_and_close(net: TADT, lr: Tensor) -> None:
    plan = net.route(lr, scales(3), OWN)
    exact = net.encode(lr, Frame((16, 24)), scales(3), OWN, plan).features
    with torch.autocast("cpu", torch.bfloat16):
        rough = net.encode(lr, Frame((16, 24)), scales(3), OWN, plan).features
    assert torch.isfinite(rough).all()
    assert float((rough.float() - exact).square().mean().sqrt()) < 0.1 * float(exact.square().mean().sqrt())
