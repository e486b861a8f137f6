"""Training by the clock on one device: stages take their shares, averages are what is left, files load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from scalewise import zoo
from scalewise.data import AnyScaleCrops, FixedScaleCrops
from scalewise.data.resident import Pictures
from scalewise.errors import InvalidRequest
from scalewise.layers import repeat_edge
from scalewise.recipes import find
from scalewise.recipes.fast import EXITS, FAST, FINISH, ROUTER, exits_of
from scalewise.recipes.resident import main as command
from scalewise.training.device_loop import DeviceTraining, load_pictures, train
from scalewise.training.losses.exits import ExitLoss
from scalewise.training.recipe import Recipe

CROPS = AnyScaleCrops(lr_side=16, points=16, layout="rows", base=True)
TOY: Recipe = replace(
    FAST,
    name="toy",
    network=exits_of(8, (1, 2), (2, 3), 8),
    stages=(
        replace(EXITS, steps=6, samples=CROPS, batch=2, loss=ExitLoss((0.5, 1.0))),
        replace(FINISH, steps=3, samples=CROPS, batch=2, loss=ExitLoss((0.5, 1.0), squared=True)),
        replace(ROUTER, steps=1, samples=replace(CROPS, lr_side=32), batch=1),
    ),
    expects={},
)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    random = np.random.default_rng(0)
    return Pictures.of([torch.from_numpy(random.integers(0, 256, (3, 140, 150)).astype(np.uint8))], torch.device("cpu"))


def test_stages_follow_each_other_by_their_shares(pictures: Pictures) -> None:
    run = DeviceTraining(TOY, pictures, TOY.network.build())
    names = []
    for done in np.linspace(0, 1, 20, endpoint=False):
        run.advance(float(done))
        assert run.stage is not None
        names.append(run.stage.name)
    assert names == ["exits"] * 12 + ["finish"] * 6 + ["router"] * 2
    assert run.steps == {"exits": 12, "finish": 6, "router": 2}


def test_what_is_left_is_the_average(pictures: Pictures) -> None:
    run = DeviceTraining(replace(TOY, stages=TOY.stages[:1]), pictures, TOY.network.build())
    first = {name: value.clone() for name, value in run.model.state_dict().items()}
    for _ in range(4):
        run.advance(0.5)
    averaged = run.result().state_dict()["network.stem.weight"]
    last = run.model.state_dict()["network.stem.weight"]
    assert not torch.equal(averaged, last) and not torch.equal(last, first["network.stem.weight"])
    run.settle()
    assert torch.equal(run.model.state_dict()["network.stem.weight"], averaged)
    assert torch.equal(
        run.result().state_dict()["router.judge.0.weight"], first["router.judge.0.weight"]
    )  # not of this stage


def test_a_run_leaves_weight_files_that_load(tmp_path: Path, pictures: Pictures) -> None:
    short = replace(TOY, stages=TOY.stages[:1])
    train([DeviceTraining(short, pictures, short.network.build())], 0.5, tmp_path)
    loaded = zoo.load(tmp_path / "toy.safetensors")
    assert loaded.card["licence"] == "Apache-2.0" and loaded.card["steps"].startswith("exits ")


def test_what_needs_the_host_is_refused(tmp_path: Path, pictures: Pictures) -> None:
    fixed = replace(TOY, stages=(replace(EXITS, samples=FixedScaleCrops(lr_side=16)),))
    with pytest.raises(InvalidRequest, match="scalewise train"):
        train([DeviceTraining(fixed, pictures, fixed.network.build())], 0.1, tmp_path)


def test_pictures_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, level in (("b.png", 200), ("a.png", 10)):
        Image.new("RGB", (5, 4), (level,) * 3).save(tmp_path / name)
    assert [int(picture[0, 0, 0]) for picture in load_pictures([tmp_path])] == [10, 200]
    halves = load_pictures([tmp_path], halves=True)
    assert [tuple(picture.shape) for picture in halves] == [(3, 4, 5), (3, 2, 3)] * 2


def test_the_command_trains_chosen_stages(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), (90,) * 3).save(tmp_path / "a.png")
    start = tmp_path / "fast-tiny.safetensors"
    recipe = find("fast-tiny")
    recipe.network.save(recipe.network.build(), start, {"licence": "Apache-2.0"})
    (tmp_path / "b").mkdir()
    asked = ["fast-tiny", "--pictures", str(tmp_path), "--seconds", "0.5", "--out", str(tmp_path / "b")]
    command([*asked, "--start", str(start), "--only", "exits"])
    assert zoo.load(tmp_path / "b" / "fast-tiny.safetensors").card["steps"].startswith("exits ")
    for wrong in (["--only", "exits", "nothing"], ["--only", "router"]):
        with pytest.raises(SystemExit):
            command([*asked, *wrong])


def test_weights_that_do_not_fit_are_refused_in_a_line_before_pictures_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["fast-tiny", "--pictures", str(tmp_path / "none"), "--seconds", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        command([*asked, "--start", "none.safetensors"])
    assert end.value.code == 2
    assert "error: none.safetensors: no such weight file" in capsys.readouterr().err.splitlines()[-1]


def test_the_repeated_edge_and_its_gradient_are_torchs() -> None:
    x = torch.randn(2, 4, 7, 6, requires_grad=True)
    upstream = torch.randn(2, 4, 11, 10)
    ours, theirs = repeat_edge(x, 2), F.pad(x, (2, 2, 2, 2), mode="replicate")
    assert torch.equal(ours, theirs)
    mine, torchs = (torch.autograd.grad(y, x, upstream)[0] for y in (ours, theirs))
    assert torch.allclose(mine, torchs, atol=1e-5)
