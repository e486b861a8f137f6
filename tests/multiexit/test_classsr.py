"""ClassSR: a network per class, the argmax and its dial, losses as the loops of the paper's code would have them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders.windowed import parameters
from multiexit.several_paths import PathTests
from safetensors.torch import load_file

from scalewise import compat
from scalewise.errors import CheckpointError
from scalewise.models.patchwise import PatchwiseModel
from scalewise.multiexit.classsr import ClassSR, average_loss, class_loss
from scalewise.multiexit.paths import Backbone
from scalewise.routing.estimator import ClassRouter, PatchEstimator

BACKBONES = {
    "fsrcnn": Backbone("fsrcnn", 12, shrink=4),
    "carn": Backbone("carn", 16, groups=4),
    "srresnet": Backbone("srresnet", 12, blocks=2),
}


@pytest.fixture(params=BACKBONES)
def network(request: pytest.FixtureRequest) -> ClassSR:
    torch.manual_seed(0)
    return ClassSR(BACKBONES[request.param], (4, 8, 12)).eval()


class TestClassSR(PathTests):
    pass


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        assert parameters(PatchEstimator(3)) == 60_035
        assert parameters(ClassSR(Backbone("fsrcnn", 56), (16, 36, 56)), PatchEstimator(3)) == 112_940


@torch.no_grad()
def test_a_sure_classifier_mixes_in_one_network_only(network: ClassSR) -> None:
    patches = torch.rand(3, 3, 8, 8)
    choice = torch.tensor([2, 0, 1])
    mixed = network.mixed(patches, torch.eye(3)[choice])
    torch.testing.assert_close(mixed, network.run(patches, choice), rtol=0, atol=1e-5)


def test_the_rule_on_worked_numbers() -> None:
    """λ = 0 is the argmax of the paper; costs are shares 1/4, 1/2, 1."""
    router = ClassRouter((100.0, 200.0, 400.0))
    logits = torch.tensor([1.0, 1.1, 1.3]).double().view(3, 1, 1)
    for dial, path in ((0.0, 2), (0.35, 2), (0.399, 2), (0.41, 0)):
        assert int(router.native(logits, dial)) == path


def test_losses_are_the_published_loops() -> None:
    probability = torch.rand(7, 3).softmax(1)
    sure = sum(2 - sum(abs(float(p[a] - p[b])) for a, b in combinations(range(3), 2)) for p in probability) / 7
    assert float(class_loss(probability)) == pytest.approx(sure, rel=1e-5)
    even = sum(abs(float(probability[:, k].sum()) - 7 / 3) for k in range(3)) / (7 / 3 * 4)
    assert float(average_loss(probability)) == pytest.approx(even, rel=1e-5)
    assert float(class_loss(torch.eye(3))) == pytest.approx(0, abs=1e-6) and float(average_loss(torch.eye(3))) == 0


def test_training_reaches_every_parameter(network: ClassSR) -> None:
    router = ClassRouter((1.0, 2.0, 3.0))
    patches = torch.rand(4, 3, 8, 8)
    probability = router.estimator(patches).softmax(1)
    loss = network.train().mixed(patches, probability).square().mean() + class_loss(probability)
    (loss + average_loss(probability)).backward()
    for module in (network, router):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@torch.no_grad()
def test_a_file_of_the_published_format(shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden" / "classsr_fsrcnn"
    loaded = compat.load(folder / "weights.pth")
    model: Any = loaded.model
    assert isinstance(model, PatchwiseModel) and isinstance(model.router, ClassRouter)
    assert model.router.costs == (141.0, 304.0, 468.0)
    case = load_file(folder / "cases.safetensors")
    choice = model.router.native(model.router.estimator(case["eval.in.x"]).T.unsqueeze(-1).double(), 0.0)
    assert torch.equal(choice.flatten(), case["eval.out.choice"])
    state = torch.load(folder / "weights.pth", weights_only=True)
    for key, words in (("net2.head_conv.0.bias", "bias"), ("classifier.lastOut.bias", r"last\.bias")):
        torch.save({name: value for name, value in state.items() if name != key}, tmp_path / "less.pth")
        with pytest.raises(CheckpointError, match=words):
            compat.load(tmp_path / "less.pth")
    torch.save({**state, "surplus.x": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"surplus\.x"):
        compat.load(tmp_path / "more.pth")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "wrapped.pth")
    assert compat.load(tmp_path / "wrapped.pth").description.parameters == loaded.description.parameters
