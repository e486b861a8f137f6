"""Training against a discriminator: VGG19's layout and distances, the judge, what a step trains, exact resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training.toy import CROPS, PLAN, STAGE, TOY, check_going_on_is_exact, waves

from scalewise.data.degradations import real_world, unsharp
from scalewise.errors import InvalidRequest, TrainingError
from scalewise.recipes import find
from scalewise.training.engine import train
from scalewise.training.gan import Adversarial, UNetDiscriminator
from scalewise.training.losses.perceptual import VGG19, WEIGHTS

WIDTHS = (2, 3, 4, 4, 4)
SEEN = replace(CROPS, lr_side=16, points=16, scales=(1.0, 2.0), layout="window", target=unsharp)
FIRST = replace(STAGE, steps=2, batch=2, samples=replace(SEEN, reduce=real_world))
SECOND = replace(FIRST, name="gan", steps=4, learning_rate=1e-3, task=Adversarial(channels=2, widths=WIDTHS))
RECIPE = replace(TOY, stages=(FIRST, SECOND))


def vgg_file(vgg: VGG19, path: Path) -> dict[str, Tensor]:
    """A file of torchvision's layout with other weights, and a classifier that nobody reads."""
    found = {"classifier.0.weight": torch.rand(2, 2)}
    for name, buffer in vgg.named_buffers():
        kind, number = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
        if number:
            found[f"features.{number}.{kind}"] = torch.rand_like(buffer)
    torch.save(found, path)
    return found


def test_vgg_has_torchvisions_layers_and_reads_its_files(tmp_path: Path) -> None:
    vgg = VGG19()
    assert [number for number in vgg.plan if number is not None] == [
        0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34,
    ]  # fmt: skip
    assert not vgg.state_dict() and not list(vgg.parameters())
    assert sum(buffer.numel() for name, buffer in vgg.named_buffers() if name not in ("mean", "std")) == 20_024_384
    small = VGG19(widths=WIDTHS)
    found = vgg_file(small, tmp_path / "vgg19.pth")
    read = VGG19(tmp_path / "vgg19.pth", WIDTHS)
    torch.testing.assert_close(read.get_buffer("weight34"), found["features.34.weight"])
    torch.testing.assert_close(read.get_buffer("bias5"), found["features.5.bias"])
    with pytest.raises(TrainingError, match=r"features.0.weight is missing or of another shape"):
        VGG19(tmp_path / "vgg19.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(TrainingError, match="cannot be read as VGG19's weights"):
        VGG19(tmp_path / "broken.safetensors")


def test_the_perceptual_distance_is_of_features_before_their_relu() -> None:
    vgg = VGG19(widths=WIDTHS)
    one, two = torch.rand(2, 3, 16, 16, requires_grad=True), torch.rand(2, 3, 16, 16)
    assert set(vgg(two)) == set(WEIGHTS) and any(bool((features < 0).any()) for features in vgg(two).values())
    assert float(vgg.distance(two, two)) == 0
    vgg.distance(one, two).backward()
    assert one.grad is not None and bool(one.grad.any())


def test_the_judge_sees_every_pixel_and_is_normalised() -> None:
    judge = UNetDiscriminator(4).train()
    picture = torch.rand(1, 3, 24, 16)
    assert judge(picture).shape == (1, 1, 24, 16)
    for _ in range(30):
        judge(picture)  # the power iteration settles
    for layer in (*judge.down, *judge.up, *judge.refine):
        assert layer.bias is None
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)  # type: ignore[operator]
        assert norm.item() == pytest.approx(1, abs=0.05)
    paper = UNetDiscriminator()
    assert sum(p.numel() for p in paper.parameters()) == 4_376_897  # Real-ESRGAN's


def test_both_networks_learn_and_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    straight = train(RECIPE, waves(), tmp_path / "straight", PLAN)
    assert (straight.reason, straight.stage, straight.step) == ("done", "gan", 4)
    train(replace(RECIPE, stages=(FIRST,)), waves(), tmp_path / "parts", PLAN)
    check_going_on_is_exact(RECIPE, PLAN, "gan", straight, tmp_path / "parts")
    states = [torch.load(tmp_path / name / "last.ckpt") for name in ("straight", "parts")]
    judges = [{k: v for k, v in state["weights"].items() if k.startswith("judge.")} for state in states]
    assert judges[0] and all(torch.equal(judges[0][name], judges[1][name]) for name in judges[0])
    assert not any("vgg" in name for name in states[0]["weights"])


def test_the_discriminator_sees_the_crop_before_it_was_sharpened() -> None:
    sample = SEEN.sample(waves(), np.random.default_rng(0))
    assert sample["hr"].shape == sample["plain"].shape == (3, 16, 16)
    assert not torch.equal(sample["hr"], sample["plain"])


def test_vggs_weights_are_asked_for_by_path(tmp_path: Path) -> None:
    (tmp_path / "vgg19.pth").touch()
    task = find("ciaosr-real", vgg=tmp_path / "vgg19.pth").stages[-1].task
    assert isinstance(task, Adversarial) and task.vgg == tmp_path / "vgg19.pth"
    with pytest.raises(InvalidRequest, match="no such file"):
        find("ciaosr-real", vgg=tmp_path / "none.pth")
    with pytest.raises(InvalidRequest, match="edsr-liif has no perceptual loss"):
        find("edsr-liif", vgg=tmp_path / "vgg19.pth")
