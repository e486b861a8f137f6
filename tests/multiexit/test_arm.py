"""ARM: sub-networks are the first channels of one network, its table chooses, and the published numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multiexit.several_paths import PathTests, check_five, waves
from torch import Tensor

from scalewise import compat
from scalewise.checkpoints.patch_networks import arm
from scalewise.errors import CheckpointError, InvalidRequest
from scalewise.evaluate.conventions import path_flops
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.multiexit.arm import ARM
from scalewise.multiexit.enaf import FSRCNNExits
from scalewise.multiexit.paths import Backbone
from scalewise.routing.estimator import EdgeRouter, edges_of

BACKBONES = {
    "fsrcnn": Backbone("fsrcnn", 12, shrink=4),
    "carn": Backbone("carn", 16, groups=4),
    "srresnet": Backbone("srresnet", 12, blocks=2),
}
WIDTHS = {"fsrcnn": (3, 8, 12), "carn": (4, 12, 16), "srresnet": (4, 8, 12)}


@pytest.fixture(params=BACKBONES)
def network(request: pytest.FixtureRequest) -> ARM:
    torch.manual_seed(0)
    return ARM(BACKBONES[request.param], WIDTHS[request.param]).eval()


class TestARM(PathTests):
    pass


@torch.no_grad()
def test_a_sub_network_is_the_first_channels(network: ARM) -> None:
    """A narrow network of its own, given the first values of every weight, says the same."""
    for path, width in enumerate(network.widths[:-1], 1):
        narrow = BACKBONES[name_of(network)].build(width).eval()
        wide = network.network.state_dict()
        narrow.load_state_dict(
            {key: wide[key][tuple(slice(n) for n in like.shape)] for key, like in narrow.state_dict().items()}
        )
        patches = torch.rand(2, 3, 9, 8)
        assert torch.equal(network.take(path, patches), narrow(patches))


def name_of(network: ARM) -> str:
    return {"FSRCNN": "fsrcnn", "CARN": "carn", "SRResNet": "srresnet"}[type(network.network.encoder).__name__]


LAST = {
    "fsrcnn": "encoder.expand.0.weight",
    "carn": "encoder.fusions.2.weight",
    "srresnet": "encoder.blocks.1.conv2.weight",
}


def test_training_a_width_reaches_its_channels_only(network: ARM) -> None:
    network.train().take(1, torch.rand(2, 3, 8, 8)).square().mean().backward()
    gradient = network.network.get_parameter(LAST[name_of(network)]).grad
    assert gradient is not None
    width = network.widths[0]
    assert bool(gradient[:width].any()) and not bool(gradient[width:].any())


def test_widths_rise_to_the_network_s_own() -> None:
    for widths in ((8, 4, 12), (4, 8), (0, 12), ()):
        with pytest.raises(InvalidRequest, match="widths"):
            ARM(BACKBONES["fsrcnn"], widths)


def table() -> EdgeRouter:
    """Two bins: nothing to gain below 20, a dB a path beyond."""
    router = EdgeRouter(4, 2, costs=(0.0, 100.0, 200.0, 400.0))
    router.centres.copy_(torch.tensor([0.0, 40.0]).double().expand(4, 2))
    router.expected.copy_(torch.tensor([[30.0, 20], [30, 21], [30, 22], [30, 23]]))
    return router


def test_the_table_is_read_at_the_nearest_bin() -> None:
    lr = torch.full((1, 3, 32, 60), 0.3)
    lr[..., 32:] = torch.rand(1, 3, 32, 28)
    router = table()
    scores = edges_of(lr, [0], [0, 28], (32, 32), truncate=False)
    assert float(scores[0, 0]) < 20 < float(scores[0, 1])
    evidence = router.evidence(lr, [0], [0, 28], (32, 32))
    assert evidence[:, 0].T.tolist() == [[30, 30, 30, 30], [20, 21, 22, 23]]
    assert router.macs((32, 60)).total == 0


def test_the_rule_on_worked_numbers() -> None:
    """k·PSNR - cost, costs as shares 0, 1/4, 1/2, 1: a dB must be worth 1/4, at the end 1/2."""
    router = table()
    evidence = torch.tensor([[30.0, 20], [30, 21], [30, 22], [30, 23]]).double().view(4, 1, 2)
    for k, path in ((0.0, 0), (0.24, 0), (0.26, 2), (0.49, 2), (0.51, 3)):
        assert router.native(evidence, k).tolist() == [[0, path]]


def test_a_decision_is_one_of_the_bins() -> None:
    """ARM's k and ENAF's η are one dial: η = 1 / k."""
    router, scores = table(), torch.rand(4, 3, 5).double() * 10
    shares = torch.tensor([0, 0.25, 0.5, 1]).double().view(4, 1, 1)
    assert torch.equal(router.native(scores, 2.0), (scores - shares / 2.0).argmax(0))


# --- weights ----------------------------------------------------------------------------------------------------------

FSRCNN_NUMBERS = (
    ".496634 .328849 .092211 .852804 .527364",
    ".499321 .328534 .039863 .833597 .566662",
    ".502845 .331983 .032480 .823720 .569902",
)
CARN_NUMBERS = (
    ".497256 .322854 .234116 .841901 .558828",
    ".496635 .344077 .042549 .792688 .448938",
    ".499423 .352450 -.012341 .997102 .507948",
)


@torch.no_grad()
@pytest.mark.parametrize(("name", "numbers"), [("fsrcnn", FSRCNN_NUMBERS), ("carn", CARN_NUMBERS)])
def test_published_weights_give_the_published_numbers(shared: Path, name: str, numbers: tuple[str, ...]) -> None:
    """Its costs are what ClassSR's convention counts, to the unit."""
    model = compat.load(shared / "weights" / f"arm-{name}.pth").model
    assert isinstance(model, PatchwiseModel) and isinstance(model.router, EdgeRouter)
    for path, expected in enumerate(numbers, 1):
        check_five(model.network.run(waves(), torch.tensor([path])), expected)
    assert model.router.centres.shape == (4, 30)
    assert [round(one * 1e6) for one in model.router.costs] == path_flops(model)


PUBLISHED_FLOPS = {
    "fsrcnn": [0, 141_262_852, 304_570_372, 467_877_892],
    "carn": [0, 380_215_296, 771_563_520, 1_154_875_392],
    "srresnet": [0, 1_658_216_448, 3_438_010_368, 5_193_990_144],
}


@pytest.mark.parametrize("name", PUBLISHED_FLOPS)
def test_published_flops(name: Any) -> None:
    widths = (16, 36, 56) if name == "fsrcnn" else (36, 52, 64)
    with torch.device("meta"):
        model = PatchwiseModel(EdgeRouter(), ARM(Backbone(name, widths[-1]), widths))
    assert path_flops(model.to_empty(device="cpu")) == PUBLISHED_FLOPS[name]


def save(folder: Path, name: str = "toy") -> tuple[Path, ARM]:
    """A toy network in the published spelling, with a table of numpy numbers beside it."""
    network = ARM(Backbone("fsrcnn", 12, shrink=4), (4, 8, 12))
    keys = {"encoder.extract": "head_conv", "encoder.shrink": "body_conv.0", "encoder.activation": "body_conv.5"}
    keys |= {"encoder.expand": "body_conv.6", "tail.deconv": "tail_conv"}
    keys |= {f"encoder.maps.{i}": f"body_conv.{i + 1}" for i in range(4)}
    state: dict[str, Tensor] = {}
    for key, value in network.network.state_dict().items():
        start = next(ours for ours in keys if key.startswith(f"{ours}."))
        state[keys[start] + key.removeprefix(start)] = value
    path = folder / f"{name}.pth"
    torch.save(state, path)
    bins = [np.linspace(0, 40, 3) for _ in range(4)]
    expected = [one + path for path, one in enumerate(bins)]
    hmap = {"cost_list": [0, 1e6, 2e6, 4e6], "hmap_x_list": bins, "hmap_y_mean_list": expected}
    torch.save({"epoch": 1, "hmap": hmap}, path.with_suffix(".state"))
    return path, network


@torch.no_grad()
def test_weights_with_their_table_are_arm_and_without_it_plain(tmp_path: Path) -> None:
    path, network = save(tmp_path)
    model: Any = compat.load(path, widths=[4, 8, 12]).model
    assert isinstance(model, PatchwiseModel) and isinstance(model.router, EdgeRouter) and isinstance(model.network, ARM)
    assert model.router.costs == (0.0, 1.0, 2.0, 4.0)
    patches, choice = torch.rand(4, 3, 8, 8), torch.arange(4)
    assert torch.equal(model.network.run(patches, choice), network.eval().run(patches, choice))
    assert model.router.expected[:, 1].tolist() == [20.0, 21, 22, 23]
    alone = tmp_path / "alone.pth"
    shutil.copy(path, alone)
    assert isinstance(compat.load(alone).model, SuperResolver)
    compat.convert(path, tmp_path / "arm.safetensors", widths=[4, 8, 12])
    again: Any = compat.load(tmp_path / "arm.safetensors").model
    assert torch.equal(again.network.run(patches, choice), network.run(patches, choice))
    assert torch.equal(again.router.expected, model.router.expected)


def test_the_state_of_a_training_beside_a_network_is_no_table(tmp_path: Path) -> None:
    path, _ = save(tmp_path)
    torch.save({"epoch": 1, "optimizers": [{"state": {0: torch.ones(2)}}]}, path.with_suffix(".state"))
    assert isinstance(compat.load(path).model, SuperResolver)


def test_a_table_that_is_not_one_is_named(tmp_path: Path) -> None:
    path, _ = save(tmp_path)
    torch.save({"hmap": {"cost_list": [1.0]}}, path.with_suffix(".state"))
    with pytest.raises(CheckpointError, match=r"toy\.state.*hmap"):
        compat.load(path)


class Calls:
    """A pickle that calls what it likes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        Calls(np.ndarray, (10**9, 10**4), np.dtype("f8")),
        Calls(np.array(0).__reduce__()[0], np.ndarray, (10**13,), b"b"),
    ],
)
def test_a_table_cannot_take_memory_that_it_does_not_hold(tmp_path: Path, call: Calls) -> None:
    path, _ = save(tmp_path)
    torch.save({"hmap": call}, path.with_suffix(".state"))
    with pytest.raises(CheckpointError, match="refused"):
        compat.load(path)


def test_enaf_is_not_mistaken_for_arm() -> None:
    """Its exits are in the weights; ARM's paths are not."""
    assert {name.split(".")[0] for name, _ in FSRCNNExits(8, 4, (4, 6)).named_parameters()} == {"backbone", "heads"}
    model: Any = arm({"name": "fsrcnn", "channels": 12, "shrink": 4}, (4, 12), 3, (0.0, 1.0, 2.0))
    assert {name.split(".")[1] for name, _ in model.network.named_parameters()} == {"encoder", "tail"}
