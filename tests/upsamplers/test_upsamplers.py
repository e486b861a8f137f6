"""What holds for every any-scale upsampler: equal to the published order of computing, at any scale, in tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from upsamplers import literal

from scalewise.contracts import Upsampler
from scalewise.geometry.grid import Frame, Query, output_box, rectangle
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

CHANNELS = 6
SIZE = (13, 11)
UNEQUAL = (15, 40)
EQUAL = (30, 25)  # 2.3 on both axes, rounded to whole pixels

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "liif": lambda: LIIF(CHANNELS, (12, 10)),
    "liif-plain": lambda: LIIF(CHANNELS, (12,), local_ensemble=False, feat_unfold=False, cell_decode=False),
    "lte": lambda: LTE(CHANNELS, 8, (12,)),
    "metasr": lambda: MetaSR(CHANNELS, 12),
    "itsrn": lambda: ITSRN(CHANNELS, (12, 10)),
    "itsrn-sine": lambda: ITSRN(CHANNELS, (12, 10), activation="sine", feat_unfold=False),
    "itsrn-nearest": lambda: ITSRN(CHANNELS, (12, 10), local_ensemble=False),
    "ciaosr": lambda: CiaoSR(CHANNELS, (12, 10)),
    "ciaosr-scales": lambda: CiaoSR(CHANNELS, (12, 10), multi_scale=(2, 3, 4), local_size=3),
    "ciaosr-local": lambda: CiaoSR(CHANNELS, (12, 10), non_local=False),
    "ciaosr-single": lambda: CiaoSR(CHANNELS, (12, 10), non_local=False, local_size=1, feat_unfold=False),
}
every = pytest.mark.parametrize("name", BUILDERS)
finite = pytest.mark.parametrize("name", [n for n in BUILDERS if n not in ("ciaosr", "ciaosr-scales")])


def target(name: str) -> tuple[int, int]:
    return EQUAL if name == "metasr" else UNEQUAL


def build(name: str) -> Any:
    torch.manual_seed(1)
    return BUILDERS[name]()


def picture(batch: int = 1, size: tuple[int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """Features and image."""
    return torch.randn(batch, CHANNELS, *size), torch.randn(batch, 3, *size)


def spelled_out(name: str, upsampler: nn.Module, features: Tensor) -> literal.Literal:
    kind = name.partition("-")[0]
    return literal.lte(upsampler, features) if kind == "lte" else getattr(literal, kind)(upsampler)  # type: ignore


def run(upsampler: nn.Module, features: Tensor, lr: Tensor, query: Query, frame: Frame | None = None) -> Tensor:
    field = upsampler.prepare(features, lr, frame or Frame((lr.shape[2], lr.shape[3])))  # type: ignore[operator]
    return upsampler.sample(field, query)  # type: ignore[operator]


def as_points(query: Query) -> Query:
    y, x = torch.broadcast_tensors(query.y, query.x)
    return Query(y.flatten(1), x.flatten(1), query.cell)


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= atol * max(1.0, float(theirs.abs().max()))


@every
def test_it_fits_the_contract(name: str) -> None:
    assert isinstance(build(name), Upsampler)


@every
@torch.no_grad()
def test_rewrites_equal_the_published_order(name: str) -> None:
    upsampler, (features, lr) = build(name), picture(2)
    out = target(name)
    ours = run(upsampler, features, lr, rectangle(Frame(SIZE), out))
    close(ours, literal.whole(spelled_out(name, upsampler, features), features, lr, out, chunk=211))


@every
@torch.no_grad()
def test_rewrites_equal_the_published_order_where_scales_differ_in_a_batch(name: str) -> None:
    upsampler, (features, lr) = build(name), picture(2)
    targets = [EQUAL, (52, 44)]
    grids = [as_points(rectangle(Frame(SIZE), out)) for out in targets]
    chosen = [torch.randperm(q.y.shape[1])[:40] for q in grids]
    pairs = list(zip(grids, chosen, strict=True))
    query = Query(
        torch.cat([q.y[:, pick] for q, pick in pairs]),
        torch.cat([q.x[:, pick] for q, pick in pairs]),
        torch.cat([q.cell for q in grids]),
    )
    numbers = zip(targets, chosen, strict=True)
    coordinates = torch.stack([literal.make_coord(out).view(-1, 2)[pick] for out, pick in numbers])
    cells = torch.cat([literal.make_cell(1, 40, out) for out in targets])
    close(run(upsampler, features, lr, query), spelled_out(name, upsampler, features)(features, lr, coordinates, cells))


@every
@torch.no_grad()
def test_points_equal_the_rectangle(name: str) -> None:
    upsampler, (features, lr) = build(name), picture(2, (5, 7))
    query = rectangle(Frame((5, 7)), (10, 14))
    whole = run(upsampler, features, lr, query)
    points = run(upsampler, features, lr, as_points(query))
    close(points, whole.flatten(2).transpose(1, 2))


@finite
@torch.no_grad()
def test_tiles_equal_the_whole_image(name: str) -> None:
    upsampler, (features, lr) = build(name), picture()
    out = target(name)
    whole = run(upsampler, features, lr, rectangle(Frame(SIZE), out))
    margin = upsampler.context
    for y0, y1 in ((0, 5), (5, 13)):
        for x0, x1 in ((0, 6), (6, 11)):
            top, left = max(0, y0 - margin), max(0, x0 - margin)
            bottom, right = min(SIZE[0], y1 + margin), min(SIZE[1], x1 + margin)
            box = output_box((y0, x0, y1, x1), SIZE, out)
            frame = Frame(SIZE, (top, left))
            cut = (..., slice(top, bottom), slice(left, right))
            tile = run(upsampler, features[cut], lr[cut], rectangle(frame, out, box), frame)
            close(tile, whole[..., box[0] : box[2], box[1] : box[3]])


@every
@pytest.mark.parametrize(("size", "out"), [((7, 6), (21, 18)), ((6, 5), (8, 7)), ((5, 7), (12, 17))])
def test_macs_are_what_runs(name: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    upsampler, (features, lr) = build(name), picture(1, size)
    with FlopCounterMode(display=False) as counter:
        run(upsampler, features, lr, rectangle(Frame(size), out))
    assert upsampler.macs(size, out).total == counter.get_total_flops() // 2


@every
def test_gradients_reach_every_weight(name: str) -> None:
    upsampler, (features, lr) = build(name), picture(2, (6, 8))
    features.requires_grad_()
    query = Query(6 * torch.rand(2, 9), 8 * torch.rand(2, 9), torch.tensor([[0.5, 0.5], [0.3, 0.3]]))
    run(upsampler, features, lr, query).square().mean().backward()
    weights = {"features": features} | dict(upsampler.named_parameters())
    for key, weight in weights.items():
        if name == "ciaosr-single" and key.startswith("key."):
            continue  # a single answer needs no score
        assert weight.grad is not None, key
        assert bool(weight.grad.isfinite().all())
        assert bool((weight.grad != 0).any())


@every
@torch.no_grad()
def test_half_precision_changes_little(name: str) -> None:
    """Coordinates stay in float32; bfloat16 has 8 bits, which a sine of 30 times a sum does not survive."""
    upsampler, (features, lr) = build(name), picture(1, (6, 8))
    query = rectangle(Frame((6, 8)), (14, 18))
    full = run(upsampler, features, lr, query)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(upsampler, features, lr, query)
    half = run(upsampler.bfloat16(), features.bfloat16(), lr.bfloat16(), query)
    assert mixed.dtype == half.dtype == torch.float32
    if name != "itsrn-sine":
        assert float((mixed - full).abs().max()) < 0.05 * float(full.abs().max())
        assert float((half - full).abs().max()) < 0.05 * float(full.abs().max())


@every
@pytest.mark.parametrize(("size", "out"), [((2, 3), (60, 90)), ((3, 3), (3, 3)), ((1, 1), (4, 4)), ((1, 9), (3, 27))])
@torch.no_grad()
def test_extreme_sizes_work(name: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    upsampler, (features, lr) = build(name), picture(1, size)
    rgb = run(upsampler, features, lr, rectangle(Frame(size), out))
    assert rgb.shape == (1, 3, *out)
    assert bool(rgb.isfinite().all())


@pytest.mark.parametrize(
    ("upsampler", "count"),
    [
        (lambda: MetaSR(64), 445_120),
        (lambda: LIIF(64), 346_883),
        (lambda: LTE(64), 493_827),
        (lambda: ITSRN(64), 645_314),
        (lambda: CiaoSR(64), 1_428_614),
        (lambda: CiaoSR(180), 3_167_918),
    ],
)
def test_parameters_are_as_many_as_published(upsampler: Callable[[], nn.Module], count: int) -> None:
    assert sum(p.numel() for p in upsampler().parameters()) == count
