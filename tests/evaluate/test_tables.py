"""The published tables are whole and well formed, and `reproduce` sets ours beside them."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from scalewise.budget.budget import Budget
from scalewise.cli.format import decimals, reproduced_table, table_text
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.evaluate import PROTOCOLS, Prediction, Upscaler, bicubic, find_protocol
from scalewise.evaluate.counting import measured
from scalewise.evaluate.curve import CurvePoint, at_psnr, curve
from scalewise.evaluate.published import load_table, tables
from scalewise.evaluate.tables import MEASURED, reproduce, steps_of
from scalewise.evaluate.timing import Timing
from scalewise.evaluate.upscalers import ModelUpscaler
from scalewise.execution.plan import RunOptions


def noise(path: Path, side: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)


def test_every_row_is_well_formed() -> None:
    assert {"ciaosr", "tadt", "camixer", "adaformer", "enaf", "bicubic"} <= set(tables())
    for name in tables():
        for row in load_table(name):
            assert row.table == name and row.method and row.source and row.scale >= 1
            assert math.isfinite(row.value)
            if "psnr" in row.metric and "mae" not in row.metric:
                assert 15 < row.value < 45, row
            if "ssim" in row.metric:
                assert 0.4 < row.value < 1, row
            if row.metric in MEASURED and row.protocol:
                find_protocol(row.protocol).check(row.scale)
    with pytest.raises(InvalidRequest, match="known are adaformer"):
        load_table("unheard-of")


@pytest.mark.parametrize("name", ["ciaosr", "tadt", "camixer", "adaformer", "enaf", "bicubic"])
def test_no_row_is_printed_twice_with_different_numbers(name: str) -> None:
    printed: dict[tuple[object, ...], float] = {}
    for row in load_table(name):
        key = (row.method, row.dataset, row.scale, row.metric, row.dial, "" if row.protocol else row.note)
        assert printed.setdefault(key, row.value) == row.value, key


def test_known_numbers_are_where_they_should_be() -> None:
    for table, method, dataset, scale, value in (
        ("ciaosr", "swinir-ciaosr", "Urban100", 4, 27.42),
        ("ciaosr", "rdn-lte", "DIV2K", 30, 20.64),
        ("tadt", "tadt-lte", "DIV2K", 2, 35.31),
        ("tadt", "cat-liif", "Manga109", 12, 22.58),
        ("enaf", "enaf-srresnet", "Test8K", 4, 33.52),
        ("adaformer", "adaformer", "Test4K", 4, 29.15),
        ("bicubic", "bicubic", "Set14", 3, 27.55),
    ):
        rows = [row for row in load_table(table) if (row.method, row.dataset, row.scale) == (method, dataset, scale)]
        assert value in [row.value for row in rows if row.metric == "psnr"], (table, method)


def test_bicubic_is_reproduced_and_the_rest_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(tmp_path / "Set5/img.png")
    rows = reproduce("bicubic", tmp_path)
    for row in rows:
        if row.published.dataset == "Set5":
            assert row.difference == pytest.approx(row.ours - row.published.value) and not row.absent
        else:
            assert row.absent == f"no data: {row.published.dataset}" and math.isnan(row.ours)
    asked = []

    def models(method: str, dial: str) -> Upscaler | None:
        asked.append((method, dial))
        return bicubic if method == "camixer-b" else None

    rows = reproduce("camixer", tmp_path, models, methods=["camixer-b", "camixer-m"])
    found = {(row.published.dial, row.published.scale): row for row in rows if not row.absent}
    assert ("gamma=0.5", 4) in found and len(asked) == len(set(asked)) * 2  # once per dial and scale, not per metric
    assert {row.absent for row in rows if row.absent} >= {"no data: F2K", "not timed"}
    assert {row.absent for row in reproduce("liif", tmp_path)} == {"measured as no protocol of ours does"}
    assert {row.absent for row in reproduce("carn", tmp_path) if row.published.dataset == "Set5"} == {
        "no weights: carn-m"
    }


def test_the_reproduced_table_in_three_styles(tmp_path: Path) -> None:
    noise(tmp_path / "Set5/img.png")
    rows = reproduce("bicubic", tmp_path)
    text = reproduced_table(rows)
    assert len({len(line.rstrip()) <= 200 for line in text.splitlines()}) == 1 and "no data: DIV2K" in text
    markdown = reproduced_table(rows, "markdown").splitlines()
    assert markdown[1].startswith("| ---") and len(markdown) == len(rows) + 2
    lines = reproduced_table(rows, "csv").splitlines()
    assert (
        lines[0].endswith("difference,FLOPs,our count,parameters,GMACs,why absent,source,note")
        and len(lines) == len(rows) + 1
    )


def test_tables_escape_what_their_style_needs() -> None:
    assert table_text(["a", "b"], [['x,"y"', "1"]], "csv") == 'a,b\n"x,""y""",1\n'
    assert table_text(["a", "b"], [["x|y", "1"]], "markdown").splitlines()[2] == "| x\\|y | 1 |"
    assert table_text(["a", "b"], [["xyz", "1"]], "text") == "a    b\n---  -\nxyz  1\n"


def test_a_curve_has_a_floor_and_names_what_it_cannot_do(tmp_path: Path) -> None:
    noise(tmp_path / "data/img.png")

    def build(given: Budget) -> Upscaler:
        budget = given.value
        if budget < 0.5:
            raise BudgetInfeasible("the floor is 0.5", 0.5)

        def upscaler(lr: torch.Tensor, size: tuple[int, int], scale: float) -> Prediction:
            return Prediction(bicubic(lr, size, scale).sr, macs=int(1000 * budget), macs_full=1000, seconds=budget)

        return upscaler

    result = curve({"toy": build}, tmp_path / "data", 2, budgets=tuple(map(Budget.fraction, (0.25, 0.5, 1.0))))
    assert [(point.model, point.budget) for point in result.points] == [("bicubic", 0), ("toy", 0.5), ("toy", 1.0)]
    assert [point.macs_share for point in result.points] == [0, 0.5, 1.0]
    assert result.notes == ("toy at 25%: the floor is 0.5",)
    result.write(tmp_path / "curve.json")
    assert json.loads((tmp_path / "curve.json").read_text())["points"][1]["macs"] == 500
    pytest.importorskip("matplotlib")
    result.plot(tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as drawn:
        assert drawn.size[0] > 1000


def test_the_cheapest_setting_that_reaches_a_psnr_is_between_two_that_were_measured() -> None:
    """dB 30 + eta, at a cost of 100 eta: 31.3 dB need eta = 1.3."""

    def point(budget: Budget) -> CurvePoint:
        eta = budget.value
        return CurvePoint("toy", eta, 30 + eta, 0.9, 100 * eta, eta / 4, 0.0, "eta")

    points = [point(Budget.native("eta", eta)) for eta in (4.0, 1.0, 2.0)]
    found = at_psnr(points, 31.3, point, steps=12)
    assert found is not None and 31.3 <= found.psnr < 31.302 and found.setting.startswith("eta=1.3")
    assert at_psnr(points, 30.5, point) == points[1]  # the cheapest reaches it
    assert at_psnr(points, 35, point) is None


def test_the_documentation_names_every_protocol() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/protocols.md").read_text()
    assert all(f"`{name}`" in page for name in PROTOCOLS)


def test_parameters_are_within_a_hundredth_of_those_that_are_printed() -> None:
    """ITSRN's 0.7 M alone, which our 0.645 M does not round to, is further away; its note says so."""
    rows = [row for name in tables() for row in load_table(name) if row.metric == "parameters_millions"]
    assert len(rows) >= 16
    for row in rows:
        ours = measured(row)
        printed = 10 ** -decimals(row.value) / 2  # half a unit of the last digit
        assert ours is not None
        if abs(ours - row.value) > max(0.01 * row.value, printed):
            assert "our count" in row.note, (row, ours)


def test_networks_of_rows_in_milliseconds_are_timed_on_one_thread_and_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the networks: the picture, the dial and the number of threads are what is looked at."""
    seen: list[tuple[object, ...]] = []

    def upscaler(lr: torch.Tensor, size: tuple[int, int], scale: float) -> Prediction:
        seen.append((tuple(lr.shape), size, torch.get_num_threads()))
        return bicubic(lr[:, :4, :4], (4, 4), 1)

    threads = torch.get_num_threads()
    rows = reproduce("camixer", models=lambda method, dial: upscaler, methods=["camixer-b"], time=RunOptions())
    timed = [row for row in rows if row.published.metric == "milliseconds"]
    assert {row.absent for row in timed if row.timing is None} == {"the time of training is not measured"}
    assert all(row.ours == row.timing.one_thread > 0 for row in timed if row.timing is not None)
    assert all(math.isnan(row.difference) and row.as_dict()["difference"] is None for row in timed)
    assert {one[:2] for one in seen} == {((3, 180, 320), (720, 1280))} and torch.get_num_threads() == threads
    assert {one[2] for one in seen} == {1, threads}
    assert "milliseconds" not in {
        row.published.metric for row in reproduce("camixer", methods=["camixer-b"]) if not row.absent
    }


def test_first_weights_are_timed_on_the_processor_as_asked_and_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[ModelUpscaler] = []

    def stand_in(upscaler: ModelUpscaler, size: tuple[int, int], scale: float) -> Timing:
        ran.append(upscaler)
        return Timing(size, 1.0, 1.0, 1, "a machine")

    monkeypatch.setattr("scalewise.evaluate.tables.timed", stand_in)
    rows = reproduce("camixer", methods=["camixer-b"], time=RunOptions(dtype="fp32", tile=64))
    found = {row.published.dial: row.absent for row in rows if row.timing is not None}
    assert found == {"gamma=1": "first weights", "gamma=0.5": "first weights", "gamma=0.25": "first weights"}
    assert {(one.options.device, one.options.dtype, one.options.tile) for one in ran} == {("cpu", "fp32", 64)}
    assert sorted(one.budget.value for one in ran) == sorted(2 * [0.25, 0.5, 1.0])[::2]


def test_the_macs_of_a_routed_network_are_said_to_be_of_all_branches() -> None:
    rows = reproduce("tadt", methods=["tadt-liif", "tadt-baseline-liif"])
    remarks = {(row.published.method, row.absent) for row in rows if row.published.metric == "gmacs"}
    assert remarks == {
        ("tadt-liif", "ours with all branches, printed a mean over routes"), ("tadt-baseline-liif", ""),
    }  # fmt: skip


def test_a_picture_without_hr_is_measured_by_what_needs_none(tmp_path: Path) -> None:
    noise(tmp_path / "RealSRSet/img.png")
    rows = reproduce(
        "ciaosr", tmp_path, lambda method, dial: bicubic, methods=["swinir-ciaosr-real"],
        measures={"niqe": lambda sr, hr: float(hr is None and sr.shape[-1] / 48)},
    )  # fmt: skip
    found = {(row.published.metric, row.published.scale): row.ours for row in rows if not row.absent}
    assert found == {("niqe", 8): 8.0, ("niqe", 16): 16.0}  # brisque and piqe want pyiqa
    assert all("pyiqa" in row.absent for row in rows if row.absent)


def test_table_6_of_ciaosr_goes_in_steps() -> None:
    assert steps_of("steps to x2 x4 x12") == (2.0, 4.0) and steps_of("one step") == () and steps_of("gamma=1") is None
