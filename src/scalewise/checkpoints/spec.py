"""A network as its weight file describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from scalewise.checkpoints import native
from scalewise.checkpoints.build import BUILDERS


@dataclass(frozen=True)
class Network:
    """A network as its weight file describes it: a name of `build.BUILDERS` and that function's arguments."""

    builder: str
    arguments: Mapping[str, Any]

    @classmethod
    def pair(
        cls,
        encoder: str,
        upsampler: str,
        *,
        of_encoder: Mapping[str, Any] | None = None,
        of_upsampler: Mapping[str, Any] | None = None,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> Network:
        """An encoder and an upsampler by their names in `build`, with their arguments."""
        parts = {
            "encoder": {"name": encoder, "arguments": dict(of_encoder or {})},
            "upsampler": {"name": upsampler, "arguments": dict(of_upsampler or {})},
        }
        return cls("super_resolver", parts | {"mean": list(mean), "std": list(std)})

    def build(self) -> nn.Module:
        """A new one, with first weights."""
        return BUILDERS[self.builder](**self.arguments)

    def save(self, model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
        """Write a weight file that `load` reads; `about` is its card."""
        native.write(path, model.state_dict(), self.builder, self.arguments, about, overwrite=True)
