"""CAMixerSR's checkpoints, in BasicSR's wrapper: key tables, and what its code does otherwise.

Quirks repeated in parity mode: the share of hard windows is averaged over the batch; in training, what is masked enters
the attention as zeros; the omnidirectional network ignores γ, and rolls some maps of a shifted block and not others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from scalewise.checkpoints.build import Colour, Constructors
from scalewise.compat.arguments import direct_arguments
from scalewise.compat.networks import plain
from scalewise.compat.translate import Choices, Layout, Network, Tensors, count
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.camixer_block import Mixed, Mixer, attend, window_edges
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.geometry.grid import Frame
from scalewise.layers import DIV2K_MEAN
from scalewise.routing.window import Predictor, straight_through, top, window_coordinates

BLOCK = r"body\.(\d+)\.body\.(\d+)\."
OURS = r"groups.\1.blocks.\2."
MIXER = (
    (BLOCK + r"mixer\.project_v", OURS + "mixer.value"),
    (BLOCK + r"mixer\.project_q", OURS + "mixer.query"),
    (BLOCK + r"mixer\.project_k", OURS + "mixer.key"),
    (BLOCK + r"mixer\.conv_sptial(?=\.)", OURS + "mixer.local"),
    (BLOCK + r"mixer\.project_out", OURS + "mixer.project"),
    (BLOCK + r"mixer\.route\.in_conv\.0", OURS + "mixer.predictor.project"),
    (BLOCK + r"mixer\.route\.in_conv\.1", OURS + "mixer.predictor.norm"),
    (BLOCK + r"mixer\.route\.out_offsets(?=\.)", OURS + "mixer.predictor.offset"),
    (BLOCK + r"mixer\.route\.out_mask(?=\.)", OURS + "mixer.predictor.score"),
    (BLOCK + r"mixer\.route\.out_CA\.1", OURS + "mixer.predictor.channel"),
    (BLOCK + r"mixer\.route\.out_SA\.0", OURS + "mixer.predictor.pixel"),
    (BLOCK + r"(norm[12])(?=\.)", OURS + r"\3"),
    (BLOCK + r"ffn\.project_in", OURS + "ffn.expand"),
    (BLOCK + r"ffn\.dwconv", OURS + "ffn.depthwise"),
    (BLOCK + r"ffn\.project_out", OURS + "ffn.project"),
    (r"head(?=\.)", "head"),
    (r"body_tail(?=\.)", "conv_after_body"),
)
# which of our layers are linear where theirs are 1×1 convolutions
LINEAR = (
    r"groups\.\d+\.(tail|blocks\.\d+\.(ffn|mixer)\.(predictor\.)?(value|project|expand|channel|offset\.\d))\.weight$"
)


def as_linear(t: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.flatten(1) if re.match(LINEAR, key) and value.dim() == 4 else value for key, value in t.items()}


def arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    groups = count(t, r"groups\.(\d+)\.")
    depths = [count(t, rf"groups\.{g}\.blocks\.(\d+)\.") for g in range(groups)]
    return {"channels": t["head.weight"].shape[0], "depths": depths}


def centred(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """The DIV2K mean, which is not in the file, on RGB in [0, 1]."""
    return tuple(choices.value("mean", list(DIV2K_MEAN))), (1.0, 1.0, 1.0)  # type: ignore[return-value]


CAMIXER_KEYS = Layout(
    "camixer",
    "CAMixerSR",
    (
        (r"global_predictor(?=\.)", "global_predictor"),
        (r"body\.(\d+)\.body_tail", r"groups.\1.tail"),
        *MIXER,
    ),
    arguments,
    adapt=as_linear,
    marks=2,
)
ODI_KEYS = Layout(
    "camixer_odi",
    "CAMixerSR for 360°",
    (
        (r"dcn\.conv_offset", "tail.offset"),
        (r"dcn(?=\.)", "tail.conv"),
        (r"offset_conv(?=\.)", "tail.guide"),
        (r"norm(?=\.)", "norm"),
        (r"body\.(\d+)\.offset_conv(?=\.)", r"groups.\1.tail.guide"),
        (r"body\.(\d+)\.body_tail\.conv_offset", r"groups.\1.tail.offset"),
        (r"body\.(\d+)\.body_tail(?=\.)", r"groups.\1.tail.conv"),
        *MIXER,
    ),
    arguments,
    adapt=as_linear,
    marks=4,
)
TAIL = Layout("direct_shuffle", "direct tail", ((r"tail\.0(?=\.)", "conv"),), direct_arguments)
NETWORKS = (
    Network("CAMixerSR", CAMIXER_KEYS, TAIL, plain),
    Network("CAMixerSR for 360°", ODI_KEYS, TAIL, centred),
)


class OfficialMixer(Mixer):
    """Windows that are not chosen enter the attention as zeros: the same picture, another gradient of the mask."""

    def hard(self, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, edge: Tensor, masks: Tensor) -> Tensor:
        return attend(self.query(q * chosen), self.key(k * chosen), v * chosen, edge, masks)


class OfficialOdiMixer(OfficialMixer):
    """A shifted block rolls x, its values and the place in the window, but neither the condition nor the map that it
    warps with offsets of the rolled frame; attention is not masked where the picture was rolled."""

    def forward(self, x: Tensor, condition: Tensor, select: Any, wrap: bool) -> Mixed:
        b, h, w, _ = x.shape
        back = (-self.shift, -self.shift)
        v = self.value(x.roll(back, (1, 2)))
        hints = self.predictor(v, condition, window_coordinates(self.shift), 0)
        mask = select(hints.logits)
        warped = self._windows(self.warp(x, self.predictor.offsets(hints.features)))
        chosen = mask.flatten().to(v.dtype).view(-1, 1, 1)
        edge = window_edges((h, w), 0).to(x.device).repeat(b)
        everyone = torch.ones(1, 1, 1, dtype=torch.bool)
        v, simple = (self._windows(t.roll((self.shift, self.shift), (1, 2))) for t in (v, v * hints.pixels))
        mixed = self._image(self.hard(warped, warped, v, chosen, edge, everyone) + simple * (1 - chosen), (h, w))
        return Mixed(self.finish(mixed, hints.channels), mask, hints.logits)

    def quick(self, x: Tensor, condition: Tensor, select: Any, wrap: bool) -> Mixed:
        return self(x, condition, select, wrap)


class OfficialCAMixer(CAMixer):
    """K from the share of hard windows in the whole batch: its expectation, or that of the noise in `draws`. Windows
    whose probability is 1 to the last bit are taken in order."""

    mixer = OfficialMixer
    draws: Iterator[Tensor] | None = None  # Gumbel noise (b, n, 2) of the layers to come

    def shares(self, predictor: Predictor, logits: Tensor) -> Tensor:
        if self.draws is None:
            return predictor.share(logits).mean().expand(len(logits))
        return straight_through(predictor.draw_logits(logits), next(self.draws)).double().mean().expand(len(logits))

    def order(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[..., 0]


class OfficialCAMixerODI(CAMixerODI):
    """K from the batch, whatever γ; without a condition, zeros."""

    mixer = OfficialOdiMixer

    def expected(self, predictor: Predictor, gamma: float, logits: Tensor) -> Tensor:
        keep = (logits.shape[1] * predictor.share(logits).mean()).long()
        return top(self.order(logits), keep.expand(len(logits)))

    def order(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[..., 0]

    def condition(self, shallow: Tensor, frame: Frame) -> Tensor:
        return torch.zeros_like(shallow[:, :1])


OFFICIAL_ENCODERS: Constructors = {"camixer": OfficialCAMixer, "camixer_odi": OfficialCAMixerODI}
