"""CAMixerSR and SwinIR as published: channels first, windows copied into place, every layer on its own, float32.

They read the weights of our modules and compute in the published order, so tests can ask for equal numbers and the
benchmark can ask what our order brings. CAMixerSR's random share of hard windows is its expectation, as ours is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.camixer_block import GatedConvolution, Mixer
from scalewise.encoders.swinir import SwinIR, WindowAttention
from scalewise.layers import Mlp, TransformerBlock
from scalewise.routing.window import AREA, REACH, WINDOW, priority, top


def conv1(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.conv2d(x, layer.weight[..., None, None], layer.bias)


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Over the channels of (b, c, h, w)."""
    centred = x - x.mean(1, keepdim=True)
    spread = centred.pow(2).mean(1, keepdim=True)
    weight, bias = (p.view(-1, 1, 1) for p in (layer.weight, layer.bias))
    return weight * (centred / torch.sqrt(spread + layer.eps)) + bias


def windows(x: Tensor) -> Tensor:
    """(b, c, h, w) → (b, n, 256 · c)."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // WINDOW, WINDOW, w // WINDOW, WINDOW)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, AREA * c)


def from_windows(x: Tensor, height: int, width: int) -> Tensor:
    b, rows, columns = len(x), height // WINDOW, width // WINDOW
    x = x.view(b, rows, columns, WINDOW, WINDOW, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, height, width)


def warp(x: Tensor, offsets: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    y, x_part = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack((x_part, y), -1).float() + offsets.permute(0, 2, 3, 1)
    grid = 2 * grid / torch.tensor([max(w - 1, 1), max(h - 1, 1)]) - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def mixer(layer: Mixer, x: Tensor, condition: Tensor, gamma: float) -> Tensor:
    """Algorithm 1 of CAMixerSR on x (b, c, h, w)."""
    b, c, h, w = x.shape
    v, predictor = conv1(x, layer.value), layer.predictor
    line = torch.linspace(-1, 1, WINDOW)
    place = torch.stack(torch.meshgrid(line, line, indexing="ij")).unsqueeze(0).repeat(b, 1, h // WINDOW, w // WINDOW)
    f = F.leaky_relu(norm(conv1(torch.cat((v, condition, place), 1), predictor.project), predictor.norm), 0.1)  # type: ignore[arg-type]
    first, _, last = predictor.offset
    offsets = conv1(F.leaky_relu(conv1(f, first), 0.1), last).tanh() * REACH  # type: ignore[arg-type]
    channels = conv1(f.mean((2, 3), keepdim=True), predictor.channel).sigmoid()
    pixels = predictor.pixel(f).sigmoid()
    logits = predictor.score(windows(f.mean(1, keepdim=True)))
    p = logits.softmax(-1)
    n = p.shape[1]
    keep = n if gamma == 1 else min(n, int(n * 2 * gamma * p.double().softmax(-1)[..., 0].mean()))
    order = top(priority(logits), torch.full((b,), keep)).long().argsort(dim=1, descending=True, stable=True)
    hard, simple = order[:, :keep], order[:, keep:]

    def take(maps: Tensor, index: Tensor) -> Tensor:
        return maps.gather(1, index.unsqueeze(-1).expand(-1, -1, maps.shape[-1]))

    k = x + warp(x, offsets)
    qk, values, weighed = windows(torch.cat((x, k), 1)), windows(v), windows(v * pixels)
    out = values.clone()
    if keep:
        q, k = take(qk, hard).view(-1, AREA, 2 * c).chunk(2, -1)
        q, k = layer.query(q), layer.key(k)
        seen = (q @ k.transpose(1, 2)).softmax(-1) @ take(values, hard).view(-1, AREA, c)
        out.scatter_(1, hard.unsqueeze(-1).expand(-1, -1, AREA * c), seen.reshape(b, keep, -1))
    out.scatter_(1, simple.unsqueeze(-1).expand(-1, -1, AREA * c), take(weighed, simple))
    out = from_windows(out, h, w)
    return conv1(F.gelu(layer.local(out)) * channels + out, layer.project)


def feed_forward(layer: GatedConvolution, x: Tensor) -> Tensor:
    a, b = layer.depthwise(conv1(x, layer.expand)).chunk(2, 1)
    return conv1(F.gelu(a) * b, layer.project)


def camixer(network: CAMixer, lr: Tensor, gamma: float) -> Tensor:
    """(b, 3, h, w), sides multiples of 16 → features."""
    x = shallow = network.head(lr)
    condition = network.global_predictor(shallow)
    for group in network.groups:
        start = x
        for block in group.blocks:  # type: ignore[union-attr]
            x = norm(x + mixer(block.mixer, x, condition, gamma), block.norm1)
            x = norm(x + feed_forward(block.ffn, x), block.norm2)
        x = start + conv1(x, group.tail)  # type: ignore[arg-type]
    return network.conv_after_body(x) + shallow


def window_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """(windows, n, n): -100 between pixels that were not neighbours before the roll."""
    image = torch.zeros(1, height, width, 1)
    parts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for k, (rows, columns) in enumerate((r, c) for r in parts for c in parts):
        image[:, rows, columns] = k
    cut = split(image, window).squeeze(-1)
    return (cut.unsqueeze(1) != cut.unsqueeze(2)).float() * -100


def split(x: Tensor, window: int) -> Tensor:
    """(b, h, w, c) → (b · windows, n, c)."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window * window, c)


def attention(layer: WindowAttention, x: Tensor) -> Tensor:
    """x (b, h, w, c), normalised."""
    b, h, w, c = x.shape
    window, shift, heads = layer.window[0], layer.shift[0], layer.heads
    if shift:
        x = torch.roll(x, (-shift, -shift), (1, 2))
    cut = split(x, window)
    n = window * window
    q, k, v = layer.qkv(cut).reshape(len(cut), n, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    scores = (q * (c // heads) ** -0.5) @ k.transpose(-2, -1) + layer._bias().contiguous().unsqueeze(0)
    if shift:
        mask = window_mask(h, w, window, shift)
        scores = scores.view(b, len(mask), heads, n, n) + mask.unsqueeze(1).unsqueeze(0)
        scores = scores.view(-1, heads, n, n)
    out = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, n, c))
    out = out.view(b, h // window, w // window, window, window, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
    return torch.roll(out, (shift, shift), (1, 2)) if shift else out


def swinir(network: SwinIR, lr: Tensor) -> Tensor:
    """(b, 3, h, w), sides multiples of the window → features; tokens (b, h · w, c) between the layers."""
    shallow = network.conv_first(lr)
    b, c, h, w = shallow.shape
    x = network.norm_first(shallow.flatten(2).transpose(1, 2))

    def image(x: Tensor) -> Tensor:
        return x.transpose(1, 2).view(b, c, h, w)

    for group in network.groups:
        start = x
        for block in group.blocks:  # type: ignore[union-attr]
            assert isinstance(block, TransformerBlock) and isinstance(block.mlp, Mlp)
            assert isinstance(block.attention, WindowAttention)
            x = x + attention(block.attention, block.norm1(x).view(b, h, w, c)).view(b, h * w, c)
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        x = group.conv(image(x)).flatten(2).transpose(1, 2) + start  # type: ignore[operator]
    x = shallow + network.conv_after_body(image(network.norm(x)))
    return x if network.conv_features is None else F.leaky_relu(network.conv_features(x), 0.01)
