"""Figures: what is drawn is what was decided, and each command leaves a PNG or one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from scalewise import upscale
from scalewise.budget.budget import Budget
from scalewise.budget.route import Decision
from scalewise.cli import app
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.tadt import TADT
from scalewise.errors import InvalidRequest, UnsupportedScale
from scalewise.evaluate import bicubic, figures
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.fixed import DirectShuffle
from scalewise.upsamplers.liif import LIIF

pytest.importorskip("matplotlib")


def noise(h: int, w: int) -> Tensor:
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(0))


def adaformer() -> SuperResolver:
    torch.manual_seed(0)
    encoder = AdaFormer(8, 3, embed=8, encoder_blocks=1, decoder_blocks=1, heads=2, hidden=16)
    return SuperResolver(encoder, DirectShuffle(8, scale=2), scales=(2.0,)).eval()


def mask(share: float, unit: str = "window") -> Decision:
    """Of 10 units in a row, so many stay."""
    choice = (torch.arange(10) < 10 * share).long().view(1, 1, 10)
    return Decision(unit, 8, choice, torch.tensor([0.0, 1.0], dtype=torch.float64))  # type: ignore[arg-type]


def test_shares_are_means_over_pictures_layer_by_layer() -> None:
    found = figures.kept_shares([(mask(1.0), mask(0.5)), (mask(0.8), mask(0.1))])
    assert found == {"window": pytest.approx([0.9, 0.3])}
    with pytest.raises(InvalidRequest, match="layer by layer"):
        figures.kept_shares([(mask(1.0, "patch"),)])


def test_beta_is_that_of_the_controller_and_macs_are_those_of_its_routes() -> None:
    torch.manual_seed(0)
    trunk = TADT(16, 1, windows=(4, 8, 8), global_window=16, pooled=4, features=8, fixed_beta=(0.0, 0.25))
    model = SuperResolver(trunk, LIIF(8, hidden=(8,))).eval()
    found = figures.intensities(model, [noise(16, 16)])
    assert found.beta == pytest.approx([min(1, scale / 4) for scale in figures.SCALES])
    assert found.share[-1] == pytest.approx(1) and found.share == sorted(found.share) and found.share[0] < 1
    drawn = figures.draw_scales({"toy": found})
    assert drawn.axes[1].get_ylim()[0] < min(found.share)
    with pytest.raises(InvalidRequest, match="no controller"):
        figures.intensities(adaformer(), [noise(16, 16)])


def test_masks_and_layers_are_drawn_of_a_network_that_halts(tmp_path: Path) -> None:
    model, lr = adaformer(), noise(16, 24)
    route = figures.routes(model, lr, 2, Budget.native("epsilon", 0.05))
    assert [len(found) for found in figures.layers(route).values()] == [3, 3]
    for name, figure in (
        ("masks", figures.draw_masks(lr, route)),
        ("layers", figures.draw_layers({"toy": figures.kept_shares([route])})),
    ):
        figures.save(figure, tmp_path / name)
        with Image.open(tmp_path / name) as drawn:
            assert drawn.format == "PNG" and min(drawn.size) > 100
    with pytest.raises(UnsupportedScale, match="×2, not ×3"):
        figures.routes(model, lr, 3, Budget.full())


def test_a_map_says_the_share_of_the_macs_that_upscale_reports() -> None:
    torch.manual_seed(0)
    pixels = noise(16, 24)
    report = upscale(pixels, 2, model=adaformer(), budget="95%", device="cpu").report
    figure = figures.draw_maps(pixels, {"toy": report})
    assert report.share < 1 and figure.axes[1].get_title() == f"toy: {report.share:.0%}"


def test_a_crop_lies_in_the_output_and_its_psnr_is_of_itself() -> None:
    lr, hr = noise(8, 8), noise(16, 16)
    figure = figures.draw_crops(lr, 2, (4, 4, 12, 12), {"bicubic": bicubic}, hr)
    titles = [panel.get_title() for panel in figure.axes]
    error = (
        (bicubic(lr, (16, 16), 2).sr[:, 4:12, 4:12].mul(255).round().clamp(0, 255) / 255 - hr[:, 4:12, 4:12])
        .square()
        .mean()
    )
    assert titles[1] == f"bicubic\n{float(-10 * error.log10()):.2f} dB" and titles[2].startswith("original")
    with pytest.raises(InvalidRequest, match="output of 16x16"):
        figures.draw_crops(lr, 2, (4, 4, 12, 17), {"bicubic": bicubic})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shapes", "a.png", "-n", "fast", "-o", "b.png"], "there is no figure 'shapes'"),
        (["maps", "a.png", "-n", "fast", "-o", "b.jpg"], "figures are .png"),
        (["masks", "a.png", "c.png", "-n", "fast", "-o", "b.png"], "of one picture"),
        (["masks", "a.png", "-n", "fast", "-n", "photo", "-o", "b.png"], "of one model"),
        (["crops", "a.png", "-n", "fast", "-o", "b.png"], "wants --crop"),
        (["maps", "a.png", "-n", "fast", "--crop", "0,0,9,9", "-o", "b.png"], "--crop is for figure crops"),
        (["scales", "a.png", "-n", "fast", "--native", "beta=1", "-o", "b.png"], "leave out --budget and --native"),
        (["layers", "a.png", "-n", "fast", "--dtype", "bf16", "-o", "b.png"], "leave out --tile and --dtype"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["figure", *arguments[:-1], str(tmp_path / arguments[-1])])
    assert answer.exit_code == 2 and words in answer.stderr and answer.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_numbers_of_layers_are_printed_beside_the_picture(tmp_path: Path) -> None:
    """The tiny AdaFormer that comes with the package: nothing leaves before its first block."""
    pixels = (noise(24, 24).permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    command = ["figure", "layers", str(tmp_path / "a.png"), "-n", "adaformer-x2-tiny", "-o", str(tmp_path / "b.png")]
    answer = CliRunner().invoke(app, [*command, "--budget", "90%"])
    assert answer.exit_code == 0, answer.stderr
    rows = [line.split() for line in answer.stdout.splitlines()[2:]]
    assert [row[1:3] for row in rows] == [["windows", "1.000"], ["tokens", "1.000"]]
    assert rows[0][-1] < rows[0][2]
    with Image.open(tmp_path / "b.png") as drawn:
        assert drawn.format == "PNG"


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    """The tiny AdaFormer that comes with the package, in two folders."""
    weights = Path(figures.__file__).parent.parent / "weights" / "adaformer-x2-tiny.safetensors"
    Image.fromarray((noise(24, 24).permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "a.png")
    command = ["figure", "layers", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png")]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.safetensors").symlink_to(weights)
        command += ["-n", str(tmp_path / folder / "net.safetensors")]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.stderr
    assert [str(tmp_path / folder) in answer.stdout for folder in ("one", "two")] == [True, True]
