"""Uploads that are asked for as 360° pictures: refused at their field if they can be none, before anything runs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra `app`")

from app.server import small

from scalewise import images, zoo
from scalewise.app import Limits, tasks
from scalewise.app.forecast import Speeds, forecast
from scalewise.app.problems import Refused
from scalewise.budget.budget import Budget
from scalewise.budget.speed import Speed
from scalewise.errors import InvalidRequest
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run

ROUND = {"ProjectionType": "equirectangular"}
PART = ROUND | {  # the upper left quarter of a sphere
    "FullPanoWidthPixels": "160",
    "FullPanoHeightPixels": "80",
    "CroppedAreaImageWidthPixels": "40",
    "CroppedAreaImageHeightPixels": "40",
    "CroppedAreaTopPixels": "0",
}


@pytest.mark.parametrize(
    ("size", "fields", "fits"),
    [
        ((80, 40), {}, True),
        ((40, 40), {}, False),
        ((80, 40), ROUND, True),
        ((40, 40), ROUND, False),
        ((40, 40), {"ProjectionType": "cylindrical"}, False),
        ((40, 40), PART, True),
        ((40, 20), PART, True),  # cut by a program that left its metadata: its sides count
        ((20, 40), PART, False),
    ],
)
def test_what_a_run_would_refuse_is_refused_before(
    tmp_path: Path, size: tuple[int, int], fields: dict[str, str], fits: bool
) -> None:
    texts = " ".join(f'GPano:{name}="{value}"' for name, value in fields.items())
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {texts}/></rdf:RDF></x:xmpmeta>'
    )
    path = tmp_path / "a.jpg"
    Image.open(io.BytesIO(small(40))).resize(size).save(path, xmp=xmp.encode())
    facts = tasks.look(path, Limits())
    assert facts.as_dict()["panorama"] == bool(fields)
    out, source = (2 * size[1], 2 * size[0]), images.open(path)
    model, how = zoo.load("bicubic", device="cpu").model, RunOptions(device="cpu", projection="erp")
    request = tasks.JobRequest(model="bicubic", projection="erp")
    for projection in ("auto", "flat"):
        assert tasks.check(facts, tasks.JobRequest(model="bicubic", projection=projection), Limits()) == out
    if fits:
        assert tasks.check(facts, request, Limits()) == out
        plan_run(source, out, model, Budget.full(), how)
        return
    with pytest.raises(Refused, match="twice as wide as high") as refused:
        tasks.check(facts, request, Limits())
    assert refused.value.field == "projection"
    with pytest.raises(InvalidRequest, match="twice as wide as high"):
        plan_run(source, out, model, Budget.full(), how)


def in_pages(path: Path, *sizes: tuple[int, int]) -> Path:
    """A TIFF with a gray page of each size (h, w)."""
    first, *others = (Image.new("L", (width, height), 90) for height, width in sizes)
    first.save(path, save_all=True, append_images=others)
    return path


def test_every_page_must_be_a_360_picture_where_one_is_asked_for(tmp_path: Path) -> None:
    path, limits = in_pages(tmp_path / "a.tif", (20, 40), (10, 40), (30, 40)), Limits()
    facts = tasks.look(path, limits)
    asked = tasks.JobRequest(model="bicubic", projection="erp")
    with pytest.raises(Refused, match="page 3 of 3: 40x30 is no equirectangular") as refused:
        tasks.check(facts, asked, limits)
    assert refused.value.field == "projection"
    heard: list[float] = []
    with pytest.raises(Refused, match="page 3 of 3"):  # and a run refuses before its first page
        tasks.enlarge(path, facts, asked, tmp_path, limits, heard.append)
    assert max(heard, default=0) == 0 and not list(tmp_path.glob("result*"))
    for fits in ({"format": "png"}, {"format": "gif"}, {"crop": (0, 0, 20, 20)}, {"projection": "auto"}):
        assert tasks.check(facts, replace(asked, **fits), limits) == (40, 80), fits  # the first page alone, or flat
    wide = tasks.look(in_pages(tmp_path / "b.tif", (20, 40), (10, 40)), limits)
    assert tasks.check(wide, asked, limits) == (40, 80)


def test_the_sizes_of_all_pages_count(tmp_path: Path) -> None:
    path, limits = in_pages(tmp_path / "a.tif", (20, 40), (100, 100)), Limits(max_pixels=40_000)
    facts = tasks.look(path, limits)
    asked = tasks.JobRequest(model="bicubic", scale=2)
    with pytest.raises(Refused, match="2 pages of several sizes are") as refused:
        tasks.check(facts, asked, limits)
    assert refused.value.field == "scale"
    assert tasks.check(facts, replace(asked, scale=1.5), limits) == (30, 60)
    assert tasks.check(facts, replace(asked, format="png"), limits) == (40, 80)


def test_a_later_page_that_cannot_be_enlarged_so_is_named(tmp_path: Path) -> None:
    facts = tasks.look(in_pages(tmp_path / "a.tif", (20, 40), (20, 40), (100, 100)), Limits())
    asked = tasks.JobRequest(model="bicubic", long_edge=80)
    with pytest.raises(Refused, match="page 3 of 3: target 80x80 is smaller than the input 100x100") as refused:
        tasks.check(facts, asked, Limits())
    assert refused.value.field == "long_edge"
    assert tasks.check(facts, replace(asked, crop=(0, 0, 20, 20)), Limits()) == (40, 80)


@pytest.mark.parametrize("budget", ["100%", "60s"])
def test_the_forecast_is_of_all_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str) -> None:
    speeds, asked = Speeds(), tasks.JobRequest(model="bicubic", scale=2, budget=budget)
    monkeypatch.setattr(speeds, "of", lambda request: Speed(1e-3, 1e-6))

    def seconds(*sizes: tuple[int, int]) -> float:
        ahead = forecast(tasks.look(in_pages(tmp_path / "a.tif", *sizes), Limits()), asked, Limits(), speeds)
        assert ahead.pages == len(sizes) and ahead.size == (2 * sizes[0][0], 2 * sizes[0][1])
        return ahead.seconds

    small, large = (20, 40), (60, 80)
    apart = seconds(small) + 2 * seconds(large)
    assert seconds(small, large, large) == pytest.approx(apart) == pytest.approx(seconds(large, small, large))
    assert seconds(small, small) == pytest.approx(2 * seconds(small))
