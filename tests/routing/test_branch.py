"""TADT's scale branch: what the price of Eq. 6 and 7 alone makes of β, by what the branch sees of the scale."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from scalewise.routing.branch import TaskController, intensity_loss

SEEDS = 8


def learnt(scale_input: Literal["raw", "log"]) -> Tensor:
    """β (seed, scale) at ×1, ×2, ×4 after 300 steps of the price of eight scales U(1, 4), from β = 0.75."""
    controllers = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        controllers.append(TaskController(8, scale_input=scale_input))
        nn.init.constant_(controllers[-1].scale[-1].bias, 1.1)  # type: ignore[arg-type]
    weights, _ = stack_module_state([Intensity(one) for one in controllers])
    weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    one = Intensity(controllers[0])
    betas = vmap(lambda own, scale: functional_call(one, own, (scale,)))
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3, betas=(0.9, 0.99))
    for _ in range(300):
        scale = torch.empty(SEEDS, 8, 1).uniform_(1, 4).expand(-1, -1, 2)
        optimizer.zero_grad()
        (SEEDS * intensity_loss(betas(weights, scale).flatten(), scale.flatten(0, 1))).backward()
        optimizer.step()
    at = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1).expand(SEEDS, -1, 2)
    return betas(weights, at).detach()


class Intensity(nn.Module):
    """The scale branch alone."""

    def __init__(self, controller: TaskController) -> None:
        super().__init__()
        self.controller = controller

    def forward(self, scale: Tensor) -> Tensor:
        return self.controller.intensity(scale)


def test_by_price_alone_beta_rises_where_the_scale_is_a_logarithm_and_falls_where_it_is_itself() -> None:
    rising, falling = learnt("log"), learnt("raw")
    assert int((rising[:, 0] < rising[:, 2]).sum()) > SEEDS // 2 and bool((rising.mean(0).diff() > 0).all())
    assert bool((falling.diff(dim=1) < 0).all()) and bool((rising[:, 2] > falling[:, 2] + 0.1).all())
