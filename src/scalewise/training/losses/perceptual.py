"""Perceptual loss: distance of VGG19's features. Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556.

The layers and weights are ESRGAN's successors': before the ReLU of five convolutions (Wang et al., arXiv:2107.10833).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.errors import TrainingError

# Layers of torchvision's `vgg19().features`: how many 3×3 convolutions of a width come before each pooling by two.
WIDTHS, DEPTHS = (64, 128, 256, 512, 512), (2, 2, 4, 4, 4)
# Number of such a layer → its weight in the loss.
WEIGHTS: Mapping[int, float] = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}


class VGG19(nn.Module):
    """VGG19 up to its last convolution, frozen: its weights are buffers, and no part of a state.

    `weights`: a state dict of torchvision's layout (`features.0.weight`, …), as a .pth or .safetensors file. Without it
    the weights are random, always the same: distances then mean less, but no file is needed."""

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path | str | None = None, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        self.plan: list[int | None] = []  # a convolution's number, or None: pooling
        generator, inputs, number = torch.Generator().manual_seed(0), 3, 0
        for width, depth in zip(widths, DEPTHS, strict=True):
            for _ in range(depth):
                weight = torch.randn(width, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
                self.register_buffer(f"weight{number}", weight, persistent=False)
                self.register_buffer(f"bias{number}", torch.zeros(width), persistent=False)
                self.plan.append(number)
                inputs, number = width, number + 2
            self.plan.append(None)
            number += 1
        if weights is not None:
            self._load(Path(weights))

    def _load(self, path: Path) -> None:
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                found = load_file(path)
            else:
                found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail in any way
            raise TrainingError(f"{path} cannot be read as VGG19's weights: {str(error).splitlines()[0]}") from None
        for name, buffer in list(self.named_buffers()):
            kind, number = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
            if not number:
                continue
            key = f"features.{number}.{kind}"
            if key not in found or found[key].shape != buffer.shape:
                raise TrainingError(
                    f"{path} is not a state dict of torchvision's vgg19: {key} is missing or of another shape"
                )
            buffer.copy_(found[key])

    def forward(self, rgb: Tensor) -> dict[int, Tensor]:
        """(b, 3, h, w) in [0, 1] → what the convolutions of WEIGHTS give, before their ReLU."""
        x, found = (rgb - self.mean) / self.std, {}
        for number in self.plan:
            if number is None:
                x = F.max_pool2d(x, 2)
                continue
            x = F.conv2d(x, self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}"), padding=1)
            if number in WEIGHTS:
                found[number] = x
            if number == max(WEIGHTS):
                break
            x = x.relu()
        return found

    def distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        """The weighted L1 of the features of two pictures (b, 3, h, w), at least 16 pixels a side."""
        with torch.no_grad():
            goals = self(wanted)
        ours = self(found)
        parts = [weight * F.l1_loss(ours[number].float(), goals[number].float()) for number, weight in WEIGHTS.items()]
        return torch.stack(parts).sum()
