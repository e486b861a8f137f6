"""Start: the weights of a network that is there, with which a training begins, and what its card then says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from scalewise.errors import TrainingError
from scalewise.training.reparam import bound_kernels, is_same_kernel
from scalewise.training.stage import Stage


@dataclass(frozen=True)
class Origin:
    """Where first weights are from: a network's name or file, the digest of the file, and what that says of its data
    and licence (None: nothing)."""

    name: str
    sha256: str | None = None
    training_data: str | None = None
    licence: str | None = None

    def added_to(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """The card of a network that was trained from there: its data and its licence are also those of the first
        weights."""
        digest = f" (sha256 {self.sha256[:16]})" if self.sha256 else ""
        before = f"before that, of {self.name}: {self.training_data or 'not known'}"
        data = f"{card['training_data']}; {before}" if card.get("training_data") else before
        licence = card.get("licence")
        if self.licence != licence:
            licence = f"{licence}; of {self.name}, with which it began: {self.licence or 'not known'}"
        return {**card, "started_from": f"{self.name}{digest}", "training_data": data, "licence": licence}


@dataclass(frozen=True)
class Start:
    """Weights that a training begins with, in plain kernels, and where they are from. `recipes.start.read_start` reads
    them from a file and compares the network with the recipe's."""

    weights: Mapping[str, Tensor] = field(repr=False, compare=False)
    origin: Origin

    def begin(self, model: nn.Module, stage: Stage) -> None:
        """Load the weights into a new model and prepare it for its first stage.

        Raises TrainingError if they are another network's, or if the stage binds kernels to be otherwise than they
        are."""
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = str(error).split("\n\t")[-1].strip()
            raise TrainingError(f"{self.origin.name} does not fit the recipe's network: {reason}") from None
        if stage.prepare is None:
            return
        stage.prepare(model)
        for name, kernel in bound_kernels(model).items():
            if not is_same_kernel(kernel, self.weights[name]):
                raise TrainingError(
                    f"stage {stage.name} keeps kernels of {name} that sum to zero, and those of {self.origin.name} do "
                    "not: begin with a network that was trained so, or at a stage that does not train them"
                )
