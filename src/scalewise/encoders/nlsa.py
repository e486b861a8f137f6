"""NLSA (NLSN): non-local sparse attention. Mei, Fan, Zhou, CVPR 2021.

Spherical locality-sensitive hashing is `hashed`, attention within buckets `SparseAttention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d, matmul
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import ResidualBlock, conv3

MAX_BUCKETS = 128
EVERY = 8  # residual blocks between two attentions


def bucket_count(tokens: int, chunk: int) -> int:
    """An even number of hash buckets of about `chunk` tokens."""
    full = max(tokens // chunk, 1)
    return min(full + full % 2, MAX_BUCKETS)


@lru_cache(maxsize=64)
def rotation(features: int, hashes: int, buckets: int, seed: int) -> Tensor:
    """Random directions of one attention, (1, features, hashes, buckets / 2): a pure function, so the output is one.

    The official code draws new ones at every call.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, features, hashes, buckets // 2, generator=generator)


def hashed(match: Tensor, directions: Tensor) -> Tensor:
    """Spherical hashing: (b, L, f) tokens → (b, hashes, L) bucket numbers, the nearest of ± each direction."""
    features, hashes, half = directions.shape[1:]
    scores = match @ directions.reshape(features, hashes * half)
    scores = scores.unflatten(-1, (hashes, half)).transpose(1, 2)  # (b, hashes, L, half)
    return torch.cat((scores, -scores), -1).argmax(-1)


class SparseAttention(nn.Module):
    """x + res_scale · attention within hash buckets, `hashes` rounds weighted by how much each found.

    Sorting by bucket is stable, so the result does not depend on the sorting algorithm.
    """

    def __init__(self, channels: int, *, chunk: int, hashes: int, reduction: int, res_scale: float) -> None:
        super().__init__()
        self.chunk, self.hashes, self.res_scale = chunk, hashes, res_scale
        self.features = channels // reduction
        self.match = conv3(channels, self.features)
        self.assemble = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, directions: Tensor) -> Tensor:
        match = self.match(x).flatten(2).transpose(1, 2)  # (b, L, f)
        value = self.assemble(x).flatten(2).transpose(1, 2)  # (b, L, c)
        codes = hashed(match, directions)
        rounds = [self._round(match, value, codes[:, r]) for r in range(codes.shape[1])]
        weight = torch.stack([found for _, found in rounds], 1).softmax(1)  # (b, hashes, L)
        out = sum(weight[:, r].unsqueeze(-1) * attended for r, (attended, _) in enumerate(rounds))
        return x + self.res_scale * out.transpose(1, 2).unflatten(2, x.shape[2:])  # type: ignore[union-attr]

    def _round(self, match: Tensor, value: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """One round: attended values (b, L, c) and the log of the summed scores (b, L)."""
        tokens = match.shape[1]
        chunk = min(self.chunk, tokens)
        order = code.argsort(dim=1, stable=True)
        back = order.argsort(1)
        short = -tokens % chunk
        padded = torch.cat((order, order[:, -short:]), 1) if short else order  # the last tokens once more
        query = _take(match, padded).unflatten(1, (-1, chunk))  # (b, chunks, chunk, f)
        keys = _with_neighbours(F.normalize(query, dim=-1, eps=5e-5))  # (b, chunks, 3·chunk, f)
        values = _with_neighbours(_take(value, padded).unflatten(1, (-1, chunk)))
        scores = query @ keys.transpose(-1, -2)
        found = scores.logsumexp(-1, keepdim=True)
        attended = (scores - found).exp() @ values
        attended, found = attended.flatten(1, 2)[:, :tokens], found.flatten(1)[:, :tokens]
        return _take(attended, back), found.gather(1, back)

    def macs(self, size: Size) -> Macs:
        tokens, f = size[0] * size[1], self.features
        c = self.assemble.out_channels
        chunk = min(self.chunk, tokens)
        chunks = -(-tokens // chunk) * self.hashes
        hashing = matmul(tokens, f, self.hashes * (bucket_count(tokens, chunk) // 2))
        attention = matmul(chunk, f, 3 * chunk, chunks) + matmul(chunk, 3 * chunk, c, chunks)
        return conv2d(c, f, 3, *size) + conv2d(c, c, 1, *size) + hashing + attention


def _take(tokens: Tensor, order: Tensor) -> Tensor:
    """Rows of (b, L, c) in `order` (b, n)."""
    return tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def _with_neighbours(chunks: Tensor) -> Tensor:
    """Each chunk with the one before and the one after it, cyclically."""
    return torch.cat((chunks, chunks.roll(1, 1), chunks.roll(-1, 1)), 2)


class NLSA(PlainEncoder):
    """EDSR's trunk with a sparse attention before it and after every eighth block. Defaults: the paper's, 39.4 M.

    Buckets are made of the whole image: tiles differ from the whole, so `context` is None. Images smaller than a chunk
    attend to all their pixels. `width` adds TADT's last convolution to another number of channels (39.58 M at 64).
    """

    context = None

    def __init__(
        self,
        channels: int = 256,
        blocks: int = 32,
        *,
        res_scale: float = 0.1,
        chunk: int = 144,
        hashes: int = 4,
        reduction: int = 4,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.channels = width or channels
        self.features, self.hashes, self.chunk = channels // reduction, hashes, chunk
        self.head = conv3(3, channels)
        self.blocks = nn.ModuleList(ResidualBlock(channels, res_scale) for _ in range(blocks))
        self.attentions = nn.ModuleList(
            SparseAttention(channels, chunk=chunk, hashes=hashes, reduction=reduction, res_scale=res_scale)
            for _ in range(1 + blocks // EVERY)
        )
        self.body_end = conv3(channels, channels)
        self.widen = conv3(channels, width) if width else nn.Identity()

    def forward(self, lr: Tensor, rotations: Sequence[Tensor] | None = None) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w). `rotations`: one per attention, (1, f, hashes, buckets / 2)."""
        rotations = self.rotations(lr) if rotations is None else rotations
        shallow = self.head(lr)
        x = self.attentions[0](shallow, rotations[0])
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            if i % EVERY == 0:
                x = self.attentions[i // EVERY](x, rotations[i // EVERY])
        return self.widen(self.body_end(x) + shallow)

    def rotations(self, lr: Tensor) -> list[Tensor]:
        """The directions for an image of this size: the same ones every time."""
        tokens = lr.shape[-2] * lr.shape[-1]
        buckets = bucket_count(tokens, min(self.chunk, tokens))
        count = len(self.attentions)
        return [rotation(self.features, self.hashes, buckets, seed).to(lr) for seed in range(count)]

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.body_end.out_channels
        total = conv2d(3, c, 3, *size) + conv2d(c, c, 3, *size) * (2 * len(self.blocks) + 1)
        for attention in self.attentions:
            total += attention.macs(size)  # type: ignore[operator]
        return total + (conv2d(c, self.channels, 3, *size) if isinstance(self.widen, nn.Conv2d) else Macs())
