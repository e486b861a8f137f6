"""PatchwiseModel: patches cover the image and fade into each other; tiled = whole; budgets; the papers' rules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models.routers import PricedRouter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalewise import images, pipeline
from scalewise.budget import cost
from scalewise.budget.budget import Budget
from scalewise.budget.cost import Macs
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.evaluate.upscalers import upscaler_of
from scalewise.execution import decide
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.tiling import plan_tiles
from scalewise.models.model import RoutePlan
from scalewise.models.patchwise import PatchwiseModel

SCALE = 2


class Paths(nn.Module):
    """Three paths: the nearest pixel, and one or two convolutions on it, which see zeros beyond a patch."""

    paths, scale = 3, SCALE

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))
        for layer in self.layers:
            nn.init.dirac_(layer.weight)  # type: ignore[arg-type]
            layer.weight.data += 0.05 * torch.randn(layer.weight.shape)  # type: ignore[union-attr, operator]

    def run(self, patches: Tensor, choice: Tensor) -> Tensor:
        out = torch.empty(*patches.shape[:2], *(n * SCALE for n in patches.shape[2:]))
        for path in range(3):
            here = patches[choice == path]
            for layer in self.layers[:path]:
                here = layer(here)
            out[choice == path] = F.interpolate(here, scale_factor=SCALE, mode="nearest")
        return out

    def path_macs(self, path: int, side: Size) -> Macs:
        return cost.conv2d(3, 3, 3, *side) * path


class Router(PricedRouter):
    """Detail is worth work: the variance of a patch, with less from each path to the next."""

    def evidence(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        detail = torch.stack(
            [torch.stack([lr[..., y : y + side[0], x : x + side[1]].var() for x in columns]) for y in rows]
        )
        return torch.stack([detail * 0, detail, detail * 1.5])


@pytest.fixture(scope="module")
def model() -> PatchwiseModel:
    torch.manual_seed(0)
    return PatchwiseModel(Router(), Paths()).eval()


def noise(size: Size, seed: int = 0) -> Tensor:
    """Noise of a strength that changes from place to place, so that routes are scattered."""
    generator = torch.Generator().manual_seed(seed)
    strength = F.interpolate(torch.rand(1, 1, 7, 7, generator=generator), size, mode="bilinear")
    return 0.5 + strength * (torch.rand(1, 3, *size, generator=generator) - 0.5)


def decided(model: PatchwiseModel, lr: Tensor, budget: str | float | Budget | None) -> RoutePlan:
    size = (lr.shape[-2], lr.shape[-1])
    out = (size[0] * SCALE, size[1] * SCALE)
    return model.plan(model.score(lr, (SCALE, SCALE)), size, out, Budget.parse(budget))


def rendered(model: PatchwiseModel, lr: Tensor, plan: RoutePlan) -> Tensor:
    size = (lr.shape[-2], lr.shape[-1])
    return model.render(lr, Frame(size), (0, 0, *size), (size[0] * SCALE, size[1] * SCALE), plan).rgb


@pytest.mark.parametrize("length", [1, 5, 28, 31, 32, 33, 36, 59, 60, 61, 63, 64, 88, 89, 200])
def test_patches_cover_an_axis_and_their_weights_add_up_to_one(model: PatchwiseModel, length: int) -> None:
    starts, side = model.layout.starts(length), min(32, length)
    assert starts[0] == 0 and starts[-1] + side == length
    assert all(start % 28 == 0 for start in starts[:-1])
    total = torch.zeros(length * SCALE)
    for start, fade in zip(starts, model.layout.fades(length), strict=True):
        assert bool((fade > 0).all())
        total[start * SCALE : (start + side) * SCALE] += fade
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_patch_fades_in_over_the_overlap(model: PatchwiseModel) -> None:
    first, second, *_ = model.layout.fades(200)
    assert bool((first[: 28 * SCALE] == 1).all())  # no fade at the border of the image
    both = first[28 * SCALE :], second[: 4 * SCALE]
    torch.testing.assert_close(both[0].flip(0), both[1])
    torch.testing.assert_close(both[1].diff(), torch.full((4 * SCALE - 1,), 1 / (4 * SCALE)))
    assert float(both[1][0]) == pytest.approx(0.5 / (4 * SCALE))


@torch.no_grad()
@pytest.mark.parametrize("size", [(75, 101), (20, 90), (13, 17), (61, 33)])
def test_a_constant_stays_one(model: PatchwiseModel, size: Size) -> None:
    plan = decided(model, noise(size), "path=0")
    result = rendered(model, torch.ones(1, 3, *size), plan)
    torch.testing.assert_close(result, torch.ones_like(result), atol=3e-7, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(75, 101), (20, 90), (57, 33)])
@pytest.mark.parametrize("side", [28, 56, 84])
def test_tiles_equal_the_whole_image(model: PatchwiseModel, size: Size, side: int) -> None:
    lr, out = noise(size), (size[0] * SCALE, size[1] * SCALE)
    plan = decided(model, lr, 0.5)
    whole, joined = rendered(model, lr, plan), torch.full((3, *out), float("nan"))
    tiles = plan_tiles(
        size,
        out,
        side=side,
        grid=model.limits.patch_stride,
        context=model.limits.context or 0,
        unit=model.limits.window_multiple,
    )
    lean = 0
    for tile in tiles:
        y0, x0, y1, x1 = tile.source
        part = model.render(lr[..., y0:y1, x0:x1], Frame(size, (y0, x0)), tile.core, out, plan)
        joined[:, tile.target[0] : tile.target[2], tile.target[1] : tile.target[3]] = part.rgb
        lean += part.lean
    torch.testing.assert_close(joined, whole, atol=2e-6, rtol=0)
    assert lean <= plan.macs - plan.overhead.total


@torch.no_grad()
def test_the_survey_does_not_depend_on_how_the_image_is_cut(
    model: PatchwiseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in ((90, 31), (88, 200), (117, 145), (33, 57)):
        source = images.open(noise(size)[0])
        surveys = []
        for side in (2048, 28, 60):
            monkeypatch.setattr(decide, "SCORE_SIDE", side)
            run_plan = plan_run(source, (size[0] * 2, size[1] * 2), model, Budget.full(), RunOptions())
            surveys.append(decide.score(run_plan))
        assert surveys[0] is not None and surveys[0].shape == (3, *(len(model.layout.starts(n)) for n in size))
        assert all(torch.equal(surveys[0], other) for other in surveys[1:])


@torch.no_grad()
def test_counted_macs_are_those_that_ran(model: PatchwiseModel) -> None:
    lr = noise((75, 101))
    for budget in (1.0, 0.7, 0.3):
        plan = decided(model, lr, budget)
        with FlopCounterMode(display=False) as counter:
            result = model.render(lr, Frame((75, 101)), (0, 0, 75, 101), (150, 202), plan)
        assert result.macs.total == counter.get_total_flops() // 2 == plan.macs - plan.overhead.total
        frame, box = Frame((75, 101)), (0, 0, 75, 101)
        assert result.macs.total == model.planned_macs(frame, (75, 101), box, (150, 202), plan)
        steps = int(plan.route[0].choice.sum())  # a path of the toy has as many convolutions as its number
        assert result.lean == round(steps * cost.conv2d(3, 3, 3, 32, 32).total * 75 * 101 / (3 * 4 * 32 * 32))


@torch.no_grad()
@pytest.mark.parametrize("size", [(75, 101), (33, 32), (20, 90), (4, 7), (1, 1)])
def test_the_price_of_a_patch_depends_on_its_sides_at_the_border(model: PatchwiseModel, size: Size) -> None:
    rows, columns = (len(model.layout.starts(n)) for n in size)
    prices = model.layout.price_map(size)
    assert prices.shape == (3, rows, columns) and prices.dtype == torch.float64
    for i, j in itertools.product(range(rows), range(columns)):
        sides = (i == 0) + (i == rows - 1), (j == 0) + (j == columns - 1)
        height, width = (min(32, n) + min(6, n) * at for n, at in zip(size, sides, strict=True))
        assert prices[:, i, j].tolist() == [path * 81 * height * width for path in range(3)]
    for path in range(3):
        plan = decided(model, noise(size), f"path={path}")
        with FlopCounterMode(display=False) as counter:
            rendered(model, noise(size), plan)
        assert counter.get_total_flops() // 2 == plan.macs - plan.overhead.total == int(prices[path].sum())
        assert (plan.macs == plan.macs_full) == (path == 2)


@torch.no_grad()
@pytest.mark.parametrize("size", [(75, 101), (40, 20), (4, 7)])
def test_only_sides_at_the_border_are_padded_and_with_the_reflection(model: PatchwiseModel, size: Size) -> None:
    lr, side = noise(size), model.layout.side(size)
    beyond = [np.pad(np.arange(n), min(6, n), "symmetric") for n in size]
    whole = lr[..., beyond[0], :][..., beyond[1]]  # the picture with its reflection
    paddings = model.layout.paddings(size, (0, 0, *size))
    places = model.layout.corners(Frame(size), (0, 0, *size))
    choice = torch.arange(len(places)) % 3
    together = dict(model.run(lr, places, side, choice, paddings))
    assert len(together) == len(places)
    for k, ((y, x), (top, bottom, left, right)) in enumerate(zip(places, paddings, strict=True)):
        at_border = y == 0, y + side[0] == size[0], x == 0, x + side[1] == size[1]
        assert [pad > 0 for pad in (top, bottom, left, right)] == list(at_border)
        y0, x0 = y + min(6, size[0]) - top, x + min(6, size[1]) - left
        seen = whole[..., y0 : y0 + top + side[0] + bottom, x0 : x0 + left + side[1] + right]
        sr = model.network.run(seen, choice[k : k + 1])[0]
        sr = sr[:, SCALE * top :, SCALE * left :][:, : SCALE * side[0], : SCALE * side[1]]
        torch.testing.assert_close(together[k], sr, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_flat_picture_shows_no_padding_at_its_border_whether_it_is_mirrored_or_not(model: PatchwiseModel) -> None:
    size = (30, 28)  # one patch, all of whose sides lie at the border
    flat, plan = torch.ones(1, 3, *size), decided(model, noise(size), "path=2")
    image = rendered(model, flat, plan)
    torch.testing.assert_close(image, image[:, :1, :1].expand_as(image), atol=1e-6, rtol=0)
    bare = model.network.run(flat, torch.tensor([2]))[0]
    assert float((bare[:, 0] - bare[:, 20]).abs().max()) > 0.01, "the network alone shows its zeros"
    picture = noise((75, 101))[0]
    out = (150, 202)
    on, off = (
        plan_run(images.open(picture), out, model, Budget.full(), RunOptions(mirror=mirror)) for mirror in (True, False)
    )
    assert [tile.source for tile in on.tiles] == [tile.source for tile in off.tiles] == [(0, 0, 75, 101)]
    frames = on.frame_at(on.tiles[0]), off.frame_at(off.tiles[0])
    plan = decided(model, picture[None], 0.5)
    mirrored, bare = (model.render(picture[None], frame, (0, 0, 75, 101), out, plan) for frame in frames)
    assert torch.equal(mirrored.rgb, bare.rgb) and mirrored.macs == bare.macs


@torch.no_grad()
def test_measuring_pads_no_patch(model: PatchwiseModel) -> None:
    lr = noise((20, 24))
    measured = upscaler_of(model, None, RunOptions(dtype="fp32", device="cpu"))(lr[0], (40, 48), SCALE)
    torch.testing.assert_close(measured.sr, model.network.run(lr, torch.tensor([2]))[0], atol=1e-6, rtol=0)
    assert measured.macs == 20 * 24 * (1 + 2 * 81), "the router and two convolutions"
    made = pipeline.upscale(lr[0], SCALE, model=model, dtype="fp32")
    assert made.report.macs == 20 * 24 + 32 * 36 * 2 * 81
    assert float((made.image - measured.sr).abs().max()) > 1e-3


def test_the_budget_is_spent_and_never_exceeded_and_less_never_costs_more(model: PatchwiseModel) -> None:
    lr = noise((300, 340))
    unit = cost.conv2d(3, 3, 3, 38, 38).total  # of a patch in a corner
    spent = []
    for share in (0.05, 0.1, 0.2, 0.333, 0.5, 0.65, 0.8, 0.9, 0.97, 0.995, 1.0):
        plan = decided(model, lr, share)
        assert share * plan.macs_full - unit <= plan.macs <= share * plan.macs_full
        assert share - plan.macs / plan.macs_full <= 0.02
        spent.append(plan.macs)
    assert spent == sorted(spent) and spent[-1] == plan.macs_full
    assert bool((plan.route[0].choice == 2).all())


def test_more_budget_lowers_no_patch(model: PatchwiseModel) -> None:
    """Where the Lagrangian rule decides alone, without the remainder that is filled up."""
    lr = noise((200, 250))
    evidence = model.score(lr, (SCALE, SCALE))
    choices = [model.router.native(evidence, price) for price in (0.3, 0.1, 0.03, 0.01, 0.003, 0.0)]
    assert all(bool((later >= earlier).all()) for earlier, later in itertools.pairwise(choices))


def test_all_of_a_budget_is_spent_where_the_router_sees_no_gain(model: PatchwiseModel) -> None:
    evidence = torch.rand(3, 10, 11, generator=torch.Generator().manual_seed(0))  # dearer paths often look worse
    for share in (0.3, 0.6, 0.9):
        plan = model.choose(evidence, model.layout.price_map((284, 312)), Macs(), Budget.fraction(share))
        assert share - 0.02 <= plan.macs / plan.macs_full <= share


def test_a_native_dial_is_the_lagrangian_at_its_price(model: PatchwiseModel) -> None:
    """Where all patches cost the same, as under the papers' protocols."""
    lr = noise((300, 340))
    evidence = model.score(lr, (SCALE, SCALE))
    each = torch.tensor([price.total for price in model.layout.prices((32, 32))], dtype=torch.float64)
    prices = each.view(-1, 1, 1).expand(evidence.shape)
    for eta in (0.3, 0.05, 0.01):
        native = model.choose(evidence, prices, Macs(router=1), Budget.native("eta", eta))
        assert native.effort.native == {"eta": eta}
        solved = model.choose(evidence, prices, Macs(router=1), Budget.macs(native.macs))
        assert torch.equal(native.route[0].choice, solved.route[0].choice) and solved.macs == native.macs


def test_one_path_can_be_forced(model: PatchwiseModel) -> None:
    for path in range(3):
        assert bool((decided(model, noise((75, 101)), f"path={path}").route[0].choice == path).all())
    for wrong in ("path=3", "path=0.5", "path=-1"):
        with pytest.raises(InvalidRequest, match="0 to 2"):
            decided(model, noise((75, 101)), wrong)
    with pytest.raises(BudgetInfeasible, match="has path, eta"):
        decided(model, noise((75, 101)), "k=2")


def test_a_budget_below_the_floor_names_the_floor(model: PatchwiseModel) -> None:
    lr = noise((75, 101))
    with pytest.raises(BudgetInfeasible, match="floor") as caught:
        decided(model, lr, 1e-6)
    floor = caught.value.floor
    assert floor is not None and 0 < floor < 0.1
    plan = decided(model, lr, floor * 1.000001)
    assert plan.macs <= floor * 1.000002 * plan.macs_full and bool((plan.route[0].choice == 0).all())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ramp", "checkerboard", "noise"])
def test_patch_borders_do_not_show(model: PatchwiseModel, kind: str) -> None:
    """Where neighbours take different paths, what changes from pixel to pixel is no more at borders than inside."""
    size = (116, 116)
    y, x = torch.meshgrid(torch.arange(116), torch.arange(116), indexing="ij")
    pictures = {"ramp": (x + y) / 230, "checkerboard": ((x // 2 + y // 2) % 2).float(), "noise": noise(size)[0, 0]}
    lr = pictures[kind].float().expand(1, 3, -1, -1).contiguous()
    plan = decided(model, lr, None)
    choice = torch.randint(0, 3, plan.route[0].choice.shape, generator=torch.Generator().manual_seed(1))
    plan.route[0].choice.copy_(choice)
    paths = [rendered(model, lr, decided(model, lr, f"path={path}")) for path in range(3)]
    apart = max(float((a - b).abs().max()) for a in paths for b in paths)
    rgb, steepest = rendered(model, lr, plan), max(float(path.diff(dim=-1).abs().max()) for path in paths)
    assert float(rgb.diff(dim=-1).abs().max()) <= steepest + apart / (4 * SCALE) + 1e-6


@torch.no_grad()
def test_the_pipeline_runs_it_at_its_own_scale_and_others(model: PatchwiseModel) -> None:
    image = noise((70, 90))[0]
    result = pipeline.upscale(image, SCALE, model=model, budget=0.5, tile=28, dtype="fp32")
    untiled = pipeline.upscale(image, SCALE, model=model, budget=0.5, dtype="fp32")
    torch.testing.assert_close(result.image, untiled.image, atol=1e-5, rtol=0)
    assert untiled.report.share <= 0.5 and untiled.report.effort_unit == 28
    assert float(untiled.report.effort_map.mean()) == pytest.approx(untiled.report.share, abs=1e-6)
    again = pipeline.upscale(image, SCALE, model=model, budget=0.5, dtype="fp32")
    assert torch.equal(again.image, untiled.image)
    assert pipeline.upscale(image, 1.5, model=model, budget=0.5, dtype="fp32").image.shape == (3, 105, 135)


@torch.no_grad()
def test_a_picture_is_decided_alone(model: PatchwiseModel) -> None:
    """Patches of two pictures in one batch come out as they do alone."""
    pictures = [noise((60, 60), seed) for seed in (1, 2)]
    together = torch.cat(pictures, -1)
    choice = torch.tensor([2, 0, 1, 2])
    places = [(0, 0), (28, 28), (0, 60), (28, 88)]
    both = dict(model.run(together, places, (32, 32), choice))
    for k, (y, x) in enumerate(places):
        alone = dict(model.run(pictures[x // 60], [(y, x % 60)], (32, 32), choice[k : k + 1]))
        torch.testing.assert_close(both[k], alone[0], atol=1e-6, rtol=0)
