"""What papers call FLOPs: their ways to count, to print their columns next to ours. A budget never means these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scalewise.encoders.camixer import CAMixer
from scalewise.errors import ProtocolMismatch
from scalewise.evaluate.runner import EvalResult
from scalewise.evaluate.upscalers import ModelUpscaler, PatchUpscaler, Upscaler
from scalewise.geometry.grid import Size
from scalewise.models.patchwise import PatchwiseModel

Convention = Literal["honest", "classsr", "camixer"]


@dataclass(frozen=True)
class PaperCost:
    """What an evaluation cost: the mean over patches (`camixer`: of 32×32 LR pixels), and with everything on.

    `honest` are our MACs, router included; the others are FLOPs as that paper counts them."""

    convention: Convention
    mean: float
    full: float

    @property
    def share(self) -> float:
        return self.mean / self.full

    def as_dict(self) -> dict[str, Any]:
        return {"convention": self.convention, "mean": self.mean, "full": self.full, "share": self.share}

    def words(self) -> str:
        unit = "MACs" if self.convention == "honest" else f"FLOPs as {self.convention} counts"
        each = "32×32 pixels" if self.convention == "camixer" else "patch"
        return f"{self.mean / 1e6:.2f} M {unit} per {each}, {self.share:.1%} of {self.full / 1e6:.2f} M"


def paper_cost(upscaler: Upscaler, result: EvalResult, convention: str) -> PaperCost:
    """The cost of an evaluation in a paper's terms. Raises ProtocolMismatch where they do not apply."""
    if convention not in get_args(Convention):
        raise ProtocolMismatch(f"convention {convention!r} is not known: known are {', '.join(get_args(Convention))}")
    if convention == "camixer":
        return _camixer_cost(upscaler)
    patches = sum(result.paths)
    if not (isinstance(upscaler, PatchUpscaler) and patches):
        raise ProtocolMismatch(
            f"convention {convention} counts per patch: it takes a network that routes patches, and the protocol "
            "classsr, arm or enaf"
        )
    if convention == "honest":
        mean, full = (sum(one.values[key] for one in result.images) / patches for key in ("macs", "macs_full"))
        return PaperCost("honest", mean, full)
    each = path_flops(upscaler.model)
    return PaperCost("classsr", sum(n * f for n, f in zip(result.paths, each, strict=True)) / patches, each[-1])


def _camixer_cost(upscaler: Upscaler) -> PaperCost:
    model = upscaler.model if isinstance(upscaler, ModelUpscaler) else None
    encoder, budget = getattr(model, "encoder", None), getattr(upscaler, "budget", None)
    if not isinstance(encoder, CAMixer) or model is None or model.limits.scales is None or budget is None:
        raise ProtocolMismatch("convention camixer is the formula of CAMixerSR: it takes a CAMixerSR of fixed scale")
    if budget.kind != "native" and budget.value != 1:
        raise ProtocolMismatch("convention camixer counts at a gamma: give the dial gamma=0.5, or the full network")
    gamma = budget.value if budget.kind == "native" else 1.0
    groups, scale = [len(group.blocks) for group in encoder.groups], int(model.limits.scales[0])  # type: ignore[arg-type]
    at, full = (camixer_flops(encoder.channels, groups, scale, value) for value in (gamma, 1.0))
    return PaperCost("camixer", at, full)


class _Convolutions(TorchDispatchMode):
    """Two operations per weight and pixel of a convolution's output, transposed ones too (which counts those of stride
    4 16 times), and one per parameter of a PReLU: as the code of ClassSR, ARM and ENAF counts."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, or torch would import its compiler to keep these lines out of it: two seconds of one core."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            weight, (batch, _, height, width) = args[1], result.shape
            self.flops += 2 * batch * weight.numel() * height * width
        elif func is torch.ops.aten._prelu_kernel.default:
            self.flops += args[1].numel()
        return result


def classsr_flops(run: Callable[[], Tensor]) -> int:
    """What ClassSR's counter says of a run, with gradients: so that a transposed convolution runs as one."""
    with torch.enable_grad(), _Convolutions() as counter:
        run()
    return counter.flops


def path_flops(model: PatchwiseModel) -> list[int]:
    """The FLOPs of each path on one patch, as ClassSR, ARM and ENAF count them: without router, bias and activation."""
    device = next(model.parameters()).device
    patch = torch.zeros(1, 3, model.patch, model.patch, device=device)
    return [
        classsr_flops(lambda path=path: model.network.run(patch, torch.tensor([path])))
        for path in range(model.network.paths)
    ]


def camixer_flops(channels: int, groups: Sequence[int], scale: int, gamma: float, size: Size = (32, 32)) -> int:
    """The formula of CAMixerSR's published code: two per multiply-add, but one in the products of attention; the
    global predictor's 1×1 layers count as 3×3. `groups`: blocks of each group."""
    area, c, wide = size[0] * size[1], channels, channels + 4
    windows, hard = -(-size[0] // 16) * -(-size[1] // 16), int(size[0] * size[1] * gamma / 256)
    square = c * c * area
    predictor = 2 * (area * wide * wide // 4) + 10 * (area * wide // 4) + windows * (2 * 256 * 16 + 2 * 16 * 2 * 16)
    mixer = predictor + 4 * square + int(4 * square * gamma) + hard * 2 * 256**2 * c + 36 * c * area
    feed_forward = 6 * square + 36 * c * area
    ends = 2 * 9 * 3 * c * area + 2 * 9 * 8 * (c + 2) * area + 18 * square + 2 * 9 * c * 3 * scale**2 * area
    return ends + sum(groups) * (mixer + feed_forward) + len(groups) * 2 * square
