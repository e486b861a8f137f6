"""First weights with which a tiny network starts as bilinear interpolation, so that minutes take it past bicubic.

The first three channels carry the pixels to the end, and what would be added to them starts at zero. The papers' sizes
train from usual first weights; this is ours.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.tadt import MultiScaleTransformer
from scalewise.layers import ResidualBlock
from scalewise.model import SuperResolver
from scalewise.routing.branch import TaskController
from scalewise.upsamplers.fixed import PixelShuffle
from scalewise.upsamplers.liif import LIIF


@torch.no_grad()
def tadt_liif(model: nn.Module) -> None:
    """A TADT, or its Baseline, with LIIF."""
    assert isinstance(model, SuperResolver)
    trunk, tail = model.encoder, model.upsampler
    assert isinstance(trunk, MultiScaleTransformer) and isinstance(tail, LIIF)
    for module in trunk.groups.modules():
        if isinstance(module, nn.Linear):  # Swin's 0.02 is for wide networks: at 32 channels attention would never wake
            nn.init.xavier_uniform_(module.weight)
    for conv in (trunk.head, trunk.conv_features):
        carry(conv)
    _zero(trunk.body_end)
    first, *between, last = tail.mlp.linears
    centre = 9 if tail.feat_unfold else 1
    _carry_rows(first, torch.arange(3) * centre + centre // 2, signs=(1, -1))
    for _, layer in pairwise([first, *between]):
        layer.weight[:6], layer.bias[:6] = torch.eye(6, layer.in_features), 0
    last.weight.zero_()
    last.weight[:, :6], last.bias[:] = torch.cat((torch.eye(3), -torch.eye(3)), 1), 0


def tadt_controller(model: nn.Module) -> None:
    """TADT's controller at β = .75 for all scales, not .98: hundreds of steps are too few to come down from there."""
    controller = model.get_submodule("encoder.controller")
    assert isinstance(controller, TaskController)
    last = controller.scale[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, 1.1)


@torch.no_grad()
def adaformer_shuffle(model: nn.Module) -> None:
    """An AdaFormer with a pixel shuffle by 2."""
    assert isinstance(model, SuperResolver)
    trunk, tail = model.encoder, model.upsampler
    assert isinstance(trunk, AdaFormer) and isinstance(tail, PixelShuffle) and tail.steps == (2,)
    carry(trunk.head)
    nn.init.orthogonal_(trunk.embed.weight, gain=2.0)  # the estimator's tanh bends only for features of some size
    _zero(trunk.unembed)
    for block in (*trunk.encoder, *trunk.decoder):
        assert isinstance(block, ResidualBlock)
        _zero(block.conv2)
    up = tail.convs[0]
    assert isinstance(up, nn.Conv2d) and up.bias is not None
    taps = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])  # of the two output pixels of each input pixel
    phases = torch.einsum("iy,jx->ijyx", taps, taps).flatten(0, 1) / 2  # half: the trunk adds its shallow features
    up.weight[:12], up.bias[:12] = 0, 0
    for colour in range(3):
        up.weight[4 * colour : 4 * colour + 4, colour] = phases
    tail.last.weight.zero_()
    carry(tail.last)


def carry(conv: nn.Conv2d) -> None:
    """The first three outputs are the first three inputs."""
    assert conv.bias is not None
    conv.weight[:3], conv.bias[:3] = 0, 0
    for colour in range(3):
        conv.weight[colour, colour, 1, 1] = 1


def _carry_rows(layer: nn.Linear, inputs: Tensor, signs: tuple[int, ...]) -> None:
    """The first outputs are these inputs, once with each sign (a ReLU follows)."""
    layer.weight[: 3 * len(signs)], layer.bias[: 3 * len(signs)] = 0, 0
    for k, sign in enumerate(signs):
        layer.weight[torch.arange(3) + 3 * k, inputs] = sign


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
