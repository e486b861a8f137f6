"""CAMixerSR: official numbers, definition equals compaction, decisions, costs, budgets, training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders.windowed import parameters
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scalewise import compat
from scalewise.budget.budget import Budget, Effort
from scalewise.budget.route import effort_map
from scalewise.contracts import Encoded, RoutedEncoder
from scalewise.encoders.camixer import BASE, MEDIUM, SMALL, CAMixer, MixerTrunk
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.errors import BudgetInfeasible, CheckpointError, InvalidRequest
from scalewise.geometry.grid import Frame, rectangle
from scalewise.layers import pad_to_grid
from scalewise.models.super_resolver import SuperResolver
from scalewise.routing.window import Allowance, straight_through, top, window_pixels
from scalewise.upsamplers.fixed import DirectShuffle
from scalewise.upsamplers.liif import LIIF

KINDS = {
    "light": lambda: CAMixer(12, (2, 1)),
    "repaired": lambda: CAMixer(12, (2, 1), predictor="repaired"),
    "odi": lambda: CAMixerODI(12, (2, 1)),
}


def toy(kind: str = "light") -> MixerTrunk:
    """Random weights with sharper predictors, so that windows and images differ."""
    network = KINDS[kind]().eval()
    with torch.no_grad():
        for block in network.blocks:
            block.mixer.predictor.score[0].weight.mul_(8)
            block.mixer.predictor.score[2].weight.mul_(4)
    return network


def encode(network: MixerTrunk, lr: Tensor, effort: Effort | None = None, *, plain: bool = False) -> Encoded:
    size = (lr.shape[-2], lr.shape[-1])
    with torch.set_grad_enabled(plain):
        return network.encode(lr, Frame(size), torch.ones(len(lr), 2), effort or Effort(), ())


def kept(encoded: Encoded, image: int = 0) -> list[int]:
    return [int(decision.choice[image].sum()) for decision in encoded.route]


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        for channels, count in ((SMALL, 351_238), (MEDIUM, 534_558), (BASE, 765_322)):
            assert parameters(CAMixer(channels), DirectShuffle(channels, 4)) == count
        assert parameters(CAMixer(), DirectShuffle(BASE, 2)) == 745_846
        assert parameters(CAMixer(), DirectShuffle(BASE, 3)) == 753_961


def ramp(height: int, width: int) -> Tensor:
    i, j, c = torch.meshgrid(torch.arange(height), torch.arange(width), torch.arange(3), indexing="ij")
    return (((7 * i + 13 * j + 29 * c) % 64) / 63).permute(2, 0, 1).unsqueeze(0)


@pytest.mark.parametrize(
    ("size", "gamma", "expected"),
    [
        ((32, 32), 1.0, (0.503142, 0.364539, 0.109003, 0.771214, 0.626550)),
        ((40, 24), 1.0, (0.504809, 0.362179, 0.095651, 0.761763, 0.833606)),
        ((64, 64), 0.5, (0.502371, 0.364458, 0.159629, 0.733547, 0.639885)),
    ],
)
def test_published_weights_give_the_official_numbers(
    shared: Path, size: tuple[int, int], gamma: float, expected: tuple[float, ...]
) -> None:
    model = compat.load(shared / "weights/CAMixerSR_S.pth", parity=True).super_resolver
    state = torch.get_rng_state()
    with torch.no_grad():
        query = rectangle(Frame(size), (4 * size[0], 4 * size[1]))
        y = model(ramp(*size), query, torch.full((1, 2), 4.0), Effort(native={"gamma": gamma})).rgb
    found = (y.mean(), y.std(correction=0), y[0, 0, 0, 0], y[0, 1, 17, 23], y[0, 2, -1, -1])
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected), rtol=0, atol=1e-4)
    assert torch.equal(state, torch.get_rng_state())


def test_every_tensor_of_the_file_must_be_known(shared: Path, tmp_path: Path) -> None:
    state = torch.load(shared / "weights/CAMixerSR_S.pth", weights_only=True)["params_ema"]
    assert len(state) == 718 and compat.describe(shared / "weights/CAMixerSR_S.pth").parameters == 351_238
    torch.save({"params": state | {"body.0.body.0.mixer.more": torch.zeros(1)}}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"mixer\.more"):
        compat.load(tmp_path / "more.pth")
    del state["body.1.body.2.mixer.route.out_SA.0.bias"]
    torch.save({"params": state}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"missing: encoder\.groups\.1\.blocks\.2\.mixer\.predictor\.pixel\.bias"):
        compat.load(tmp_path / "less.pth")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.15, 0.6, 1.0])
def test_compaction_equals_the_definition(kind: str, keep: float) -> None:
    network = toy(kind)
    for lr in (torch.rand(3, 3, 32, 48), torch.rand(1, 3, 16, 16)):
        plain, quick = encode(network, lr, Effort(keep=keep), plain=True), encode(network, lr, Effort(keep=keep))
        torch.testing.assert_close(quick.features, plain.features.detach(), rtol=0, atol=1e-5)
        assert all(torch.equal(a.choice, b.choice) for a, b in zip(plain.route, quick.route, strict=True))
        assert all(a.evidence is not None and not a.evidence.requires_grad for a in quick.route)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("effort", [Effort(), Effort(keep=0.4), Effort(native={"gamma": 0.5})])
def test_an_image_is_decided_alone_and_the_same_every_time(kind: str, effort: Effort) -> None:
    network, lr = toy(kind), torch.rand(4, 3, 32, 48) * torch.tensor([1.0, 0.5, 0.1, 0.0]).view(4, 1, 1, 1)
    together = encode(network, lr, effort)
    assert torch.equal(together.features, encode(network, lr, effort).features)
    for i in range(4):
        alone = encode(network, lr[i : i + 1], effort)
        torch.testing.assert_close(alone.features, together.features[i : i + 1], rtol=0, atol=1e-5)
        assert kept(alone) == kept(together, i)


def test_odd_sizes_are_padded_to_whole_windows() -> None:
    model = SuperResolver(toy(), DirectShuffle(12, 2), mean=(0, 0, 0), std=(1, 1, 1), scales=(2,))
    for height, width in ((37, 51), (5, 16)):
        rgb = model(torch.rand(1, 3, height, width), rectangle(Frame((height, width)), (2 * height, 2 * width)), SCALE)
        assert rgb.rgb.shape == (1, 3, 2 * height, 2 * width)
        assert rgb.route[0].choice.shape[1:] == (-(-height // 16), -(-width // 16))


SCALE = torch.full((1, 2), 2.0)


def test_any_upsampler_takes_the_features() -> None:
    model = SuperResolver(toy(), LIIF(12, hidden=(16,)))
    assert isinstance(model.encoder, RoutedEncoder)
    with torch.no_grad():
        rgb = model(torch.rand(1, 3, 20, 16), rectangle(Frame((20, 16)), (50, 37)), SCALE, Effort(keep=0.5)).rgb
    assert rgb.shape == (1, 3, 50, 37) and rgb.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_macs_equal_the_counter_and_follow_the_route(kind: str) -> None:
    network, size = toy(kind), (32, 48)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(torch.rand(1, 3, *size))
    full = network.macs(size, (2.0, 2.0))
    assert full.total == counter.get_total_flops() // 2
    route = encode(network, torch.rand(1, 3, *size), Effort(keep=0.3)).route
    spent = network.macs(size, (2.0, 2.0), route)
    assert spent.total == full.total - (18 - sum(int(d.choice.sum()) for d in route)) * network._hard_macs().total
    costs = [decision.cost for decision in route]
    always = full.total - int(sum(6 * cost[1] for cost in costs))
    assert spent.total == always + round(sum(float(d.cost[d.choice[0].flatten()].sum()) for d in route))
    assert effort_map(route).shape == (2, 3)


def test_all_granted_windows_are_kept_and_no_layer_has_more_than_there_are() -> None:
    for kind in KINDS:
        network = toy(kind)
        for n in (0, 1, 7, 17, 18):
            encoded = encode(network, torch.rand(2, 3, 32, 48), Effort(keep=n / 18))
            assert sum(kept(encoded)) == sum(kept(encoded, 1)) == n == network.kept(n / 18, (32, 48))


def test_layers_that_expect_more_get_more() -> None:
    allowance = Allowance(20, 3, 2, torch.device("cpu"))
    shares = torch.tensor([[0.7, 0.5], [0.3, 0.5], [0.7, 0.5]], dtype=torch.float64)
    given = torch.stack([allowance.grant(share, 10) for share in shares], 1)
    assert given.sum(1).tolist() == [20, 20]
    assert given[0, 1] < min(given[0, 0], given[0, 2]) and given[1].max() - given[1].min() <= 1


def test_less_budget_never_costs_more_and_nearly_all_of_it_is_used() -> None:
    network = toy()
    model = SuperResolver(network, DirectShuffle(12, 2), mean=(0, 0, 0), std=(1, 1, 1), scales=(2,))
    lr, last = torch.rand(1, 3, 70, 85), 0
    full = model.macs((70, 85), (140, 170)).total
    floor = network.kept_macs((80, 96), 0).total + full - network.macs((80, 96), (2, 2)).total
    for share in torch.linspace(floor / full, 1, 9, dtype=torch.float64).tolist():
        budget = Budget.fraction(min(share + 1e-9, 1.0))
        plan = model.plan(None, (70, 85), (140, 170), budget)
        with torch.no_grad():
            rendered = model.render(lr, Frame((70, 85)), (0, 0, 70, 85), (140, 170), plan)
        assert rendered.macs.total == plan.macs <= budget.allowed(full)
        assert plan.macs >= last and plan.macs > budget.allowed(full) - 0.02 * full
        last = plan.macs
    assert last == full
    with pytest.raises(BudgetInfeasible, match="below the floor"):
        model.plan(None, (70, 85), (140, 170), Budget.fraction(0.99 * floor / full))


def test_gamma_keeps_what_the_published_rule_expects() -> None:
    network, lr = toy(), torch.rand(2, 3, 48, 64)
    for gamma in (0.0, 0.3, 0.5, 1.0):
        grant = network.allocate(None, (48, 64), (2.0, 2.0), 0.0, gamma)
        encoded = encode(network, lr, grant.effort)
        for i in range(2):
            for decision in encoded.route:
                assert decision.evidence is not None
                p = decision.evidence[i].double().sigmoid()
                expected = 12 if gamma == 1 else int(12 * 2 * gamma * (2 * p - 1).sigmoid().mean())
                assert decision.choice[i].sum() == expected
        assert network.macs((48, 64), (2.0, 2.0), encoded.route).total <= grant.macs
    with pytest.raises(BudgetInfeasible, match=r"gamma=1\.5 is out of range"):
        network.allocate(None, (48, 64), (2.0, 2.0), 0.0, 1.5)


def test_the_hardest_windows_are_chosen_and_the_first_of_equals() -> None:
    score = torch.tensor([[0.0, 3.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    assert top(score, torch.tensor([3, 2])).tolist() == [[False, True, True, True], [True, True, False, False]]
    assert top(score, torch.tensor([1, 0])).sum(1).tolist() == [1, 0]
    encoded = encode(toy(), torch.rand(1, 3, 48, 64), Effort(keep=0.5))
    for decision in encoded.route:
        assert decision.evidence is not None
        hard = decision.choice == 1
        assert decision.evidence[hard].min() >= decision.evidence[~hard].max()


def test_windows_hold_the_pixels_of_the_rolled_image() -> None:
    image = torch.rand(32, 48)
    rolled = image.roll((-8, -8), (0, 1))
    assert torch.equal(image.flatten()[window_pixels((32, 48), 16, 8)[4]], rolled[16:32, 16:32].flatten())
    assert window_pixels((32, 48), 16, 0).flatten().sort().values.equal(torch.arange(32 * 48))


@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_every_parameter_and_draws_from_the_given_generator(kind: str) -> None:
    network, lr = toy(kind).train(), torch.rand(2, 3, 32, 48)
    routes = []
    for seed in (1, 1, 2):
        network.generator = torch.Generator().manual_seed(seed)
        routes.append(encode(network, lr, plain=True))
    same, other = (
        [torch.equal(a.choice, b.choice) for a, b in zip(routes[0].route, r.route, strict=True)] for r in routes[1:]
    )
    assert all(same) and not all(other)
    masks = [decision.evidence for decision in routes[0].route]
    loss = routes[0].features.square().mean() + sum(mask.mean() for mask in masks if mask is not None)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for decision, mask in zip(routes[0].route, masks, strict=True):
        assert mask is not None
        torch.testing.assert_close(mask.detach(), decision.choice.float())


def test_a_draw_is_hard_as_often_as_the_deterministic_rule_says() -> None:
    predictor = toy().blocks[0].mixer.predictor
    logits = torch.randn(1, 40, 2)
    noise = -torch.empty(2000, 40, 2).exponential_().log()
    drawn = straight_through(predictor.draw_logits(logits), noise).mean()
    assert abs(float(drawn) - float(predictor.share(logits))) < 0.01


def test_the_repaired_predictor_sees_what_the_normalisation_removes() -> None:
    scale = torch.tensor([0.1, 2.0]).repeat_interleave(16).view(1, 1, 32, 1)
    v, condition = torch.randn(1, 16, 32, 12), torch.zeros(1, 2, 16, 32)
    spread = {}
    for kind in ("published", "repaired"):
        predictor = toy("light" if kind == "published" else kind).blocks[0].mixer.predictor
        torch.nn.init.constant_(predictor.score[0].weight, 1 / 256)  # type: ignore[arg-type]
        logits = predictor(v * scale, condition, torch.zeros(16, 16, 2), 0).logits
        spread[kind] = float((logits[0, 0] - logits[0, 1]).detach().abs().max())
    assert spread["repaired"] > 3 * spread["published"]
    with pytest.raises(InvalidRequest, match="allowed are published and repaired"):
        CAMixer(12, (1,), predictor="better")


def test_bf16_stays_close() -> None:
    network, lr = toy(), pad_to_grid(torch.rand(1, 3, 40, 48), 16)
    exact = encode(network, lr).features
    with torch.autocast("cpu", torch.bfloat16):
        rough = encode(network, lr).features
    assert (rough.float() - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()
