"""The upsamplers as published: unfold, sample with `grid_sample`, one MLP per corner and query, in chunks of 30 000.

They read the weights of our modules and compute in the published order, so tests can ask for equal numbers and the
benchmark can ask what the rewrites bring. Coordinates are the published ones: (y, x) in [-1, 1], cells 2 / output side.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.upsamplers.ciaosr import CiaoSR, CrossScaleAttention
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

CHUNK = 30_000
EPSILON = 1e-6

Literal = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # features, lr, coordinates, cells → (b, q, 3)


def make_coord(size: tuple[int, int]) -> Tensor:
    """Centres of h × w cells of [-1, 1]², (h, w, 2), in the published float32 arithmetic."""
    axes = [-1 + 1 / n + (2 / n) * torch.arange(n).float() for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def make_cell(batch: int, queries: int, out: tuple[int, int]) -> Tensor:
    cell = torch.ones(batch, queries, 2)
    return cell * torch.tensor([2 / out[0], 2 / out[1]])


def whole(render: Literal, features: Tensor, lr: Tensor, out: tuple[int, int], chunk: int = CHUNK) -> Tensor:
    """All of an image, (b, 3, h, w)."""
    batch = len(features)
    coordinates = make_coord(out).view(1, -1, 2).expand(batch, -1, -1)
    cells = make_cell(batch, coordinates.shape[1], out)
    pieces = [
        render(features, lr, coordinates[:, i : i + chunk], cells[:, i : i + chunk])
        for i in range(0, coordinates.shape[1], chunk)
    ]
    return torch.cat(pieces, 1).transpose(1, 2).reshape(batch, 3, *out)


def nearest(maps: Tensor, coordinates: Tensor) -> Tensor:
    """Features at coordinates: (b, q, c)."""
    grid = coordinates.flip(-1).unsqueeze(1)
    return F.grid_sample(maps, grid, mode="nearest", align_corners=False)[:, :, 0].transpose(1, 2)


def centres(features: Tensor) -> Tensor:
    h, w = features.shape[-2:]
    return make_coord((h, w)).permute(2, 0, 1).unsqueeze(0).expand(len(features), -1, -1, -1)


def unfold(features: Tensor) -> Tensor:
    b, c, h, w = features.shape
    return F.unfold(features, 3, padding=1).view(b, c * 9, h, w)


def skip(lr: Tensor, coordinates: Tensor) -> Tensor:
    grid = coordinates.flip(-1).unsqueeze(1)
    sampled = F.grid_sample(lr, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


def shifted(coordinates: Tensor, v: int, u: int, radius: Tensor) -> Tensor:
    """Coordinates of corner (v, u); radius (b, 2)."""
    moved = coordinates + (torch.tensor([v, u]) * radius.unsqueeze(1) + EPSILON)
    return moved.clamp(-1 + EPSILON, 1 - EPSILON)


def sides(features: Tensor) -> Tensor:
    return torch.tensor(features.shape[-2:], dtype=torch.float32)


def blend(predictions: list[Tensor], areas: list[Tensor]) -> Tensor:
    total = torch.stack(areas).sum(0)
    return sum(p * (a / total).unsqueeze(-1) for p, a in zip(predictions, reversed(areas), strict=True))  # type: ignore


def liif(upsampler: LIIF) -> Literal:
    def render(features: Tensor, lr: Tensor, coordinates: Tensor, cells: Tensor) -> Tensor:
        where, size = centres(features), sides(features)
        maps = unfold(features) if upsampler.feat_unfold else features
        predictions, areas = [], []
        for v, u in product((-1, 1), (-1, 1)) if upsampler.local_ensemble else [(0, 0)]:
            moved = shifted(coordinates, v, u, 1 / size.unsqueeze(0)) if upsampler.local_ensemble else coordinates
            rel = (coordinates - nearest(where, moved)) * size
            inputs = [nearest(maps, moved), rel] + [cells * size] * upsampler.cell_decode
            predictions.append(upsampler.mlp(torch.cat(inputs, -1)))
            areas.append(rel.prod(-1).abs() + 1e-9)
        return blend(predictions, areas)

    return render


def metasr(upsampler: MetaSR) -> Literal:
    def render(features: Tensor, lr: Tensor, coordinates: Tensor, cells: Tensor) -> Tensor:
        size = sides(features)
        corners = centres(features) - (1 / size).view(1, 2, 1, 1)
        edge = coordinates - cells / 2
        moved = (edge + EPSILON).clamp(-1 + EPSILON, 1 - EPSILON)
        rel = (edge - nearest(corners, moved)) * size / 2
        weight = upsampler.mlp(torch.cat((rel, cells[..., :1] * size[0] / 2), -1))
        sampled = nearest(unfold(features), moved)
        b, q, c = sampled.shape
        return torch.bmm(sampled.reshape(b * q, 1, c), weight.view(b * q, c, 3)).view(b, q, 3)

    return render


def lte(upsampler: LTE, features: Tensor) -> Literal:
    """The two convolutions run once per image, as published."""
    amplitude, frequency = upsampler.coef(features), upsampler.freq(features)

    def render(features: Tensor, lr: Tensor, coordinates: Tensor, cells: Tensor) -> Tensor:
        where, size = centres(lr), sides(lr)
        predictions, areas = [], []
        for v, u in product((-1, 1), (-1, 1)):
            moved = shifted(coordinates, v, u, 1 / size.unsqueeze(0))
            rel = (coordinates - nearest(where, moved)) * size
            pairs = torch.stack(nearest(frequency, moved).chunk(2, -1), -1)  # (b, q, hidden_dim / 2, 2)
            angle = (pairs * rel.unsqueeze(-2)).sum(-1) + upsampler.phase(cells * size)
            waves = torch.cat((torch.cos(torch.pi * angle), torch.sin(torch.pi * angle)), -1)
            predictions.append(upsampler.mlp(nearest(amplitude, moved) * waves))
            areas.append(rel.prod(-1).abs() + 1e-9)
        return blend(predictions, areas) + skip(lr, coordinates)

    return render


def itsrn(upsampler: ITSRN) -> Literal:
    def render(features: Tensor, lr: Tensor, coordinates: Tensor, cells: Tensor) -> Tensor:
        where, size = centres(features), sides(features)
        maps = unfold(features) if upsampler.feat_unfold else features
        token = cells / 2
        radius = (1 - token[:, 0]) / (size - 1)
        answers = []
        for v, u in product((-1, 1), (-1, 1)) if upsampler.local_ensemble else [(0, 0)]:
            moved = shifted(coordinates, v, u, radius) if upsampler.local_ensemble else coordinates
            rel = (coordinates - nearest(where, moved)) * size
            weight = upsampler.mlp(torch.cat((rel, token * size), -1))
            sampled = nearest(maps, moved)
            b, q, c = sampled.shape
            rgb = torch.bmm(sampled.reshape(b * q, 1, c), weight.view(b * q, c, 3)).view(b, q, 3)
            answers.append(rgb + upsampler.score(rel) if upsampler.local_ensemble else rgb)
        if not upsampler.local_ensemble:
            return answers[0]
        return upsampler.merge(torch.stack(answers, -1)).squeeze(-1)

    return render


def cross_scale(attention: CrossScaleAttention, features: Tensor) -> Tensor:
    """Patches pasted by a transposed convolution into an image t times larger, one sample at a time."""
    height, width = features.shape[-2:]
    outputs = []
    for t in attention.scales:
        padded = F.pad(features, (0, -width % t, 0, -height % t), mode="reflect")
        small = F.interpolate(padded, scale_factor=1 / t, mode="bilinear", align_corners=False)
        queries, keys, values = attention.match(padded), attention.match_small(small), attention.assembly(padded)
        down: Any = attention.down[str(t)]
        samples = []
        for query, key, value in zip(queries.split(1), keys.split(1), values.split(1), strict=True):
            patches = F.unfold(key, 3, padding=1)[0].T.unflatten(1, (-1, 3, 3))
            norm = patches.flatten(1).norm(dim=1).clamp_min(1e-4).view(-1, 1, 1, 1)
            weight = (10 * F.conv2d(query, patches / norm, padding=1)).softmax(1)
            pieces = F.unfold(value, 3 * t, padding=t, stride=t)[0].T.unflatten(1, (-1, 3 * t, 3 * t))
            pasted = F.conv_transpose2d(weight, pieces, stride=t, padding=t)
            samples.append(F.conv2d(pasted, down.weight, down.bias, stride=t, padding=1) / 6)
        outputs.append(torch.cat(samples)[..., :height, :width])
    return torch.cat(outputs, 1)


def ciaosr(upsampler: CiaoSR) -> Literal:
    """The attention across scales runs again for every chunk, as published."""

    def render(features: Tensor, lr: Tensor, coordinates: Tensor, cells: Tensor) -> Tensor:
        where, size = centres(features), sides(features)
        maps = unfold(features) if upsampler.feat_unfold else features
        values = maps
        if upsampler.attention is not None:
            values = torch.cat((maps, cross_scale(upsampler.attention, features)), 1)
        query = nearest(maps, coordinates)
        radius = (1 - cells[:, 0]) / (size - 1)
        scores, found = [], []
        for v, u in product(upsampler.signs, upsampler.signs):
            shift = torch.tensor([v, u]) * radius.unsqueeze(1) + EPSILON * torch.tensor([abs(v), abs(u)])
            moved = (coordinates + shift).clamp(-1 + EPSILON, 1 - EPSILON)
            place = torch.cat(((coordinates - nearest(where, moved)) * size, cells * size), -1)
            key, value = nearest(maps, moved), nearest(values, moved)
            key = key * upsampler.key(torch.cat((key, place), -1))
            found.append(value * upsampler.value(torch.cat((value, place), -1)))
            scores.append((query * key).sum(-1, keepdim=True))
        weight = torch.stack(scores).softmax(0)
        return upsampler.query((weight * torch.stack(found)).sum(0)) + skip(lr, coordinates)

    return render
