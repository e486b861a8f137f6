"""AdaFormer: masked equals gathered, decisions per image, the budget, costs equal the counter's, published files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from encoders.windowed import parameters, upscale
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scalewise import compat
from scalewise.budget.budget import Budget, Effort
from scalewise.budget.route import effort_map
from scalewise.contracts import Encoded, RoutedEncoder
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.adaformer_block import PrototypeAttention
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.geometry.grid import Frame
from scalewise.layers import merge, partition
from scalewise.models.super_resolver import SuperResolver
from scalewise.routing.token import Kept, below, lowest, uncertainty_loss
from scalewise.upsamplers.fixed import DirectShuffle

SIZE = (24, 32)
FULL = Effort()
EFFORTS = [FULL, Effort(native={"epsilon": 0.05}), Effort(native={"epsilon": 0.6}), Effort(keep=0.4), Effort(keep=0.0)]


def toy(*, deep: bool = False, seed: int = 0) -> AdaFormer:
    """Weights that scatter the confidence."""
    torch.manual_seed(seed)
    net = AdaFormer(16, 4, embed=16, prototypes=4, hidden=32, encoder_blocks=1, decoder_blocks=2, deep=deep)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter.data *= 3
    torch.nn.init.constant_(net.confidence[2].bias, -0.5)  # type: ignore[arg-type]
    return net.eval()


NETS = {deep: toy(deep=deep) for deep in (False, True)}


@pytest.fixture(params=[False, True], ids=["published", "deep"])
def net(request: pytest.FixtureRequest) -> AdaFormer:
    return NETS[request.param]


@pytest.fixture(scope="module")
def lr() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(3, 3, 3, 4, generator=generator), size=SIZE, mode="bilinear")
    return smooth + torch.rand(3, 3, *SIZE, generator=generator) * torch.linspace(0, 1, SIZE[1])


def encode(net: AdaFormer, lr: Tensor, effort: Effort) -> Encoded:
    size = (lr.shape[-2], lr.shape[-1])
    return net.encode(lr, Frame(size), torch.ones(len(lr), 2), effort, ())


def kept(encoded: Encoded, unit: str) -> list[Tensor]:
    return [decision.choice for decision in encoded.route if decision.unit == unit]


def test_published_parameter_count() -> None:
    unused, mean_shifts = 51_456, 24
    with torch.device("meta"):
        encoder = AdaFormer()
        assert parameters(encoder, DirectShuffle(64, 4)) + unused + mean_shifts == 1_602_721
    assert isinstance(encoder, RoutedEncoder)


@torch.no_grad()
@pytest.mark.parametrize("effort", EFFORTS, ids=str)
def test_gathered_equals_masked_and_one_by_one(net: AdaFormer, lr: Tensor, effort: Effort) -> None:
    gathered = encode(net, lr, effort)
    everything = Effort(native={"epsilon": -9.0})  # training halts by ε unless told otherwise
    masked = encode(net.train(), lr, everything if effort is FULL else effort)
    net.eval()
    torch.testing.assert_close(gathered.features, masked.features, rtol=1e-5, atol=1e-4)
    for one, other in zip(gathered.route, masked.route, strict=True):
        assert torch.equal(one.choice, other.choice)
    alone = [encode(net, one, effort) for one in lr.split(1)]
    together = torch.cat([one.features for one in alone])
    torch.testing.assert_close(gathered.features, together, rtol=1e-5, atol=1e-4)
    for i, one in enumerate(alone):
        for mine, theirs in zip(one.route, gathered.route, strict=True):
            assert torch.equal(mine.choice[0], theirs.choice[i])


@torch.no_grad()
@pytest.mark.parametrize("effort", EFFORTS, ids=str)
def test_macs_are_what_ran(net: AdaFormer, lr: Tensor, effort: Effort) -> None:
    with FlopCounterMode(display=False) as counter:
        encoded = encode(net, lr[:1], effort)
    assert net.macs(SIZE, (2.0, 2.0), encoded.route).total == counter.get_total_flops() // 2
    assert net.macs(SIZE, (2.0, 2.0)).total >= counter.get_total_flops() // 2


@torch.no_grad()
def test_the_first_block_is_dense_and_masks_only_shrink(net: AdaFormer, lr: Tensor) -> None:
    for effort in EFFORTS:
        for unit in ("window", "token"):
            masks = kept(encode(net, lr, effort), unit)
            assert all(bool((after <= before).all()) for before, after in pairwise(masks))
            assert not masks or bool(masks[0].all())


@torch.no_grad()
def test_nothing_left_is_the_plain_network(net: AdaFormer, lr: Tensor) -> None:
    plain = encode(net, lr, FULL)
    kept_all = encode(net, lr, Effort(native={"epsilon": -9.0}))
    torch.testing.assert_close(plain.features, kept_all.features, rtol=0, atol=1e-5)
    assert all(bool(decision.choice.all()) for decision in plain.route)
    assert float(effort_map(plain.route).min()) == 1.0


@torch.no_grad()
def test_what_has_left_deep_keeps_its_features(lr: Tensor) -> None:
    """Behind the first block a window that has left gets only what the convolutions around the body give it."""
    net = toy(deep=True)
    encoded = encode(net, lr[:1], Effort(keep=0.0))
    shallow = net.head(lr[:1])
    x = net.encoder(shallow)
    window = (net.grid, net.grid)
    tokens = partition(net.embed(x.permute(0, 2, 3, 1)), window)
    first = net.blocks[0](tokens, Kept.all(1, (3, 4), 64, lr.device))
    expected = x + net.unembed(merge(first, window)).permute(0, 3, 1, 2) + shallow
    torch.testing.assert_close(encoded.features, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 0.9, 1.0])
def test_the_decoder_on_live_windows_equals_all_then_select(lr: Tensor, share: float) -> None:
    net = toy(deep=True)
    x, live = torch.randn(2, 16, *SIZE), torch.rand(2, 3, 4) < share
    sparse, dense = net.decode(x, live), net.train().decode(x, live)
    torch.testing.assert_close(sparse, dense, rtol=0, atol=2e-5)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="divisor"):
        AdaFormer(embed=30)
    with pytest.raises(InvalidRequest, match="at least 2"):
        AdaFormer(blocks=1)


def test_thresholds_on_worked_numbers() -> None:
    score = torch.tensor([[[[0.2, 0.96], [0.94, 0.96]]]]).view(1, 1, 2, 2)
    kept = below(score, 0.05)
    assert kept.tokens.flatten().tolist() == [True, False, True, False]
    assert kept.windows.flatten().tolist() == [True, False]  # means 0.58 and 0.95


def test_counts_take_the_lowest_of_what_stayed_and_the_first_of_equals() -> None:
    score = torch.tensor([0.5, 0.1, 0.3, 0.3, 0.2, 0.0]).view(1, 1, 3, 2)
    before = Kept(torch.tensor([[[True, True, False]]]), torch.tensor([1, 1, 1, 1, 0, 0]).bool().view(1, 1, 3, 2))
    after = lowest(score, 1, 2, before)
    assert after.windows.flatten().tolist() == [True, False, False]  # means .3 .3 and, gone before, .1
    assert after.tokens.flatten().tolist() == [False, True, True, False, False, False]


@settings(max_examples=8)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans())
def test_the_grant_is_within_the_limit_to_a_step_and_grows_with_it(low: float, high: float, deep: bool) -> None:
    net = NETS[deep]
    full, least = net.macs(SIZE, (2.0, 2.0)).total, net.allocate(None, SIZE, (2.0, 2.0), 0, None).macs
    low, high = sorted((low, high))
    grants = [net.allocate(None, SIZE, (2.0, 2.0), least + share * (full - least), None) for share in (low, high)]
    assert grants[0].macs <= grants[1].macs <= full
    assert grants[0].effort.keep <= grants[1].effort.keep
    for share, grant in zip((low, high), grants, strict=True):
        assert grant.macs <= least + share * (full - least)
    with torch.no_grad():
        encoded = encode(net, torch.rand(1, 3, *SIZE), grants[0].effort)
    assert net.macs(SIZE, (2.0, 2.0), encoded.route).total == grants[0].macs
    windows = sum(float(choice.float().mean()) for choice in kept(encoded, "window")[1:])
    layers = len(kept(encoded, "window")) - 1
    assert windows == pytest.approx(grants[0].effort.keep * layers, abs=1 / 12)


def test_floors_are_as_documented() -> None:
    tail = DirectShuffle(64, 4)
    with torch.device("meta"):
        for deep, floor in ((False, 0.887), (True, 0.481)):
            model = SuperResolver(AdaFormer(deep=deep), tail, scales=tail.scales)
            with pytest.raises(BudgetInfeasible) as caught:
                model.plan(None, (96, 96), (384, 384), Budget.fraction(0.1))
            assert caught.value.floor == pytest.approx(floor, abs=6e-4)


@torch.no_grad()
def test_a_budget_is_spent_through_the_front_door(net: AdaFormer, lr: Tensor) -> None:
    tail = DirectShuffle(16, 2)
    model = SuperResolver(net, tail, scales=tail.scales).eval()
    picture = lr[:1, :, :21, :30]
    for share in (0.85, 0.95, 1.0):
        plan = model.plan(model.score(picture, (2.0, 2.0)), (21, 30), (42, 60), Budget.fraction(share))
        with FlopCounterMode(display=False) as counter:
            rendered = model.render(picture, Frame((21, 30)), (0, 0, 21, 30), (42, 60), plan)
        assert rendered.macs.total == plan.macs == counter.get_total_flops() // 2 <= share * plan.macs_full
        again = model.render(picture, Frame((21, 30)), (0, 0, 21, 30), (42, 60), plan)
        assert torch.equal(again.rgb, rendered.rgb)
    plan = model.plan(None, (21, 30), (42, 60), Budget.native("epsilon", 0.05))
    rendered = model.render(picture, Frame((21, 30)), (0, 0, 21, 30), (42, 60), plan)
    assert rendered.macs.total <= plan.macs == plan.macs_full
    with pytest.raises(BudgetInfeasible, match="epsilon"):
        model.plan(None, (21, 30), (42, 60), Budget.native("epsilon", 1.5))


def test_confidence_learns_from_the_error_and_nothing_else_does(net: AdaFormer, lr: Tensor) -> None:
    encoded = encode(net.train(), lr, FULL)
    net.eval()
    logits = [decision.evidence for decision in encoded.route if decision.evidence is not None]
    assert len(logits) == len(net.blocks)
    hr = torch.rand(3, 3, 48, 64)
    uncertainty_loss(logits, hr + 0.01, hr, scale=2).backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == name.startswith("confidence."), name
    net.zero_grad(set_to_none=True)


def test_uncertainty_loss_on_worked_numbers() -> None:
    logits, hr = torch.full((1, 2, 2), 0.0), torch.zeros(1, 3, 4, 4)  # C = 1 / 2; an error of 4 of 255 everywhere
    loss = uncertainty_loss([logits, logits], hr + 4 / 255, hr, scale=2)
    assert float(loss) == pytest.approx(2 * (0.5 * 4 + torch.tensor(2.0).log().item()), rel=1e-5)


def test_training_reaches_every_parameter(net: AdaFormer, lr: Tensor) -> None:
    encoded = encode(net.train(), lr, FULL)
    net.eval()
    confidence = torch.stack([one.evidence.mean() for one in encoded.route if one.evidence is not None])
    (encoded.features.square().mean() + confidence.sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    net.zero_grad(set_to_none=True)


@torch.no_grad()
def test_bf16_is_finite_and_close(net: AdaFormer, lr: Tensor) -> None:
    for effort in (FULL, Effort(keep=0.4)):
        exact = encode(net, lr, effort).features
        with torch.autocast("cpu", torch.bfloat16):
            rough = encode(net, lr, effort).features
        assert torch.isfinite(rough).all()
        assert float((rough.float() - exact).square().mean().sqrt()) < 0.1 * float(exact.square().mean().sqrt())


@torch.no_grad()
def test_a_published_file_loads_to_our_rule_too(shared: Path, tmp_path: Path) -> None:
    """Without chunks: at one chunk the same pixels as the published code, with all windows and tokens kept."""
    path = shared / "golden" / "adaformer_x2_split2" / "weights.pt"
    ours, official = compat.load(path), compat.load(path, parity=True, epsilon=-9.0)
    assert ours.description.assumed == {"epsilon": 0.05}
    small, large = torch.rand(1, 3, 40, 43), torch.rand(1, 3, 72, 75)
    model, published = ours.super_resolver, official.super_resolver
    inside = (..., slice(0, 78), slice(0, 84))  # the tails differ at the padding
    torch.testing.assert_close(
        upscale(model, small, 2)[inside], upscale(published, small, 2)[inside], rtol=0, atol=1e-4
    )
    assert float((upscale(model, large, 2) - upscale(published, large, 2))[inside].abs().max()) > 1e-4
    compat.convert(path, tmp_path / "it.safetensors")
    again = compat.load(tmp_path / "it.safetensors").super_resolver
    assert torch.equal(upscale(again, small, 2), upscale(model, small, 2))


def test_prototypes_that_start_alike_stay_alike() -> None:
    """Why they do not start at 1, as the paper prints: each has the gradient of the others."""
    attention = PrototypeAttention(8, 2, 4)
    torch.nn.init.ones_(attention.prototypes)
    attention(torch.rand(2, 9, 8)).square().sum().backward()
    gradient = attention.prototypes.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, gradient[:1].expand_as(gradient))
