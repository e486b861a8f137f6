"""The command line: what it writes and prints, and that every error is one clear line that leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pyvips
import typer.main
from PIL import Image
from rich import markup
from typer.testing import CliRunner

from scalewise import cli, images
from scalewise.cli import app, format, options
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.execution import tiles
from scalewise.geometry.resize import imresize
from scalewise.geometry.sizes import parse_scale, parse_size

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "src" / "scalewise" / "weights" / "fast.safetensors"
needs_fast = pytest.mark.skipif(not WEIGHTS.exists(), reason="the weights of `fast` are not in the tree")


class Answer:
    """What a command printed, and its exit code."""

    def __init__(self, *arguments: object) -> None:
        done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
        self.code, self.out, self.error = done.exit_code, done.stdout, done.stderr

    def failed_by_one_line(self, code: int, words: str) -> bool:
        line = self.error
        return self.code == code and line.startswith("scalewise: ") and line.count("\n") == 1 and words in line


def pixels(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """A smooth random picture."""
    small = np.random.default_rng(height * width).random((height // 6 + 2, width // 6 + 2, channels))
    image = pyvips.Image.new_from_array(small).resize(8.0, kernel="cubic").numpy()[:height, :width]
    return (image.clip(0, 1).reshape(height, width, channels) * np.iinfo(dtype).max).round().astype(dtype)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wide, gray = image.dtype == np.uint16, image.shape[2] < 3
    kind = ("grey16" if wide else "b-w") if gray else ("rgb16" if wide else "srgb")
    pyvips.Image.new_from_array(np.ascontiguousarray(image)).copy(interpretation=kind).write_to_file(str(path))
    return path


def read(path: Path) -> np.ndarray:
    image = pyvips.Image.new_from_file(str(path))
    return image.numpy().reshape(image.height, image.width, image.bands)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "photo.png", pixels(20, 31))


# --- what `upscale` writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ext", ["png", "tif"])
def test_channels_and_depth_out_are_those_in(tmp_path: Path, channels: int, dtype: Any, ext: str) -> None:
    source = save(tmp_path / f"in.{ext}", pixels(13, 18, channels, dtype))
    out = tmp_path / f"out.{ext}"
    assert Answer("upscale", source, "-s", 2.5, "-n", "bicubic", "-o", out).code == 0
    image = read(out)
    assert image.shape == (32, 45, channels) and image.dtype == dtype


def test_the_pixels_are_those_of_matlab(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert Answer("upscale", photo, "-s", 3.7, "-n", "bicubic", "-o", out).code == 0
    lr = images.open(photo).read()
    expected = (imresize(lr, (74, 115)).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(read(out) - expected).max() <= 1  # a level, where rounding falls on a tie


@pytest.mark.parametrize(
    ("wish", "size", "name"),
    [
        (["-s", "3.7"], (74, 115), "photo_x3.7.png"),
        (["-s", "2x1.5"], (30, 62), "photo_2x1.5.png"),
        (["--size", "100x80"], (80, 100), "photo_100x80.png"),
        (["--long-edge", "62"], (40, 62), "photo_62.png"),
        (["-s", "2", "--suffix", "-big"], (40, 62), "photo-big.png"),
        (["-s", "2", "--ext", "webp"], (40, 62), "photo_x2.webp"),
    ],
)
def test_the_size_and_the_name_follow_the_wish(photo: Path, wish: list[str], size: tuple[int, int], name: str) -> None:
    answer = Answer("upscale", photo, "-n", "bicubic", *wish)
    assert answer.code == 0, answer.error
    assert read(photo.with_name(name)).shape[:2] == size
    assert f"{size[1]}x{size[0]}" in answer.out and name in answer.out
    assert ("stretched" in answer.out) == (wish[1] in ("2x1.5", "100x80"))


def test_the_habits_of_real_esrgan_users_work(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    command = ["upscale", "-i", photo, "-o", f"{out}/", "-s", 4, "-n", "bicubic", "-t", 16, "--fp32", "--ext", "auto"]
    assert Answer(*command).code == 0
    assert files(out) == ["photo.png"]


def test_one_line_says_what_was_done(photo: Path) -> None:
    answer = Answer("upscale", photo, "-s", 2, "-n", "bicubic")
    line = r"62x40  bicubic  .*MACs.*  [\d.]+ s  peak [\d.]+ (MiB|GiB)  .*photo_x2\.png\n"
    assert re.fullmatch(line, answer.out)
    assert answer.error == ""  # no bar without a terminal
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic", "-q", "--overwrite").out == ""


def test_the_report_holds_what_was_promised(photo: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.png", pixels(9, 9))
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic", "--report", one).code == 0
    report = json.loads(one.read_text())
    keys = {"macs", "macs_full", "seconds", "peak_bytes", "size", "effort", "input", "output", "model"}
    assert keys <= report.keys() and report["size"] == [40, 62]
    assert Answer("upscale", photo, other, "-s", 3, "-n", "bicubic", "--report", many).code == 0
    assert [entry["size"] for entry in json.loads(many.read_text())] == [[60, 93], [27, 27]]
    again = Answer("upscale", photo, "-s", 4, "-n", "bicubic", "--report", one)
    assert again.failed_by_one_line(1, "exists") and not (tmp_path / "photo_x4.png").exists()


@needs_fast
def test_a_budget_is_kept_and_drawn(tmp_path: Path) -> None:
    photo = save(tmp_path / "photo.png", pixels(96, 130))
    report, effort = tmp_path / "r.json", tmp_path / "effort.png"
    command = ["upscale", photo, "-s", 2.7, "--budget", "50%", "--report", report, "--effort-map", effort]
    assert Answer(*command).code == 0
    costs = json.loads(report.read_text())
    assert 0 < costs["macs"] <= 0.5 * costs["macs_full"] * 1.02
    assert read(effort).shape == (96, 130, 3)


def test_a_folder_keeps_its_sub_folders_and_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    album = tmp_path / "album"
    save(album / "a.png", pixels(8, 9))
    save(album / "b" / "c.png", pixels(9, 8, 4))
    (album / "bad.png").write_text("no picture")
    report = tmp_path / "report.json"
    answer = Answer(
        "upscale", album, tmp_path / "gone.png", "-r", "-s", 2, "-n", "bicubic", "-o", f"{tmp_path / 'out'}/",
        "--effort-map", f"{tmp_path / 'maps'}/", "--report", report,
    )  # fmt: skip
    assert answer.code == 1
    assert files(tmp_path / "out") == ["a.png", "b", "b/c.png", "scalewise.jsonl"]
    assert files(tmp_path / "maps") == ["a_effort.png", "b", "b/c_effort.png"]
    assert answer.out.count("\n") == 2
    lines = answer.error.splitlines()
    assert len(lines) == 3 and "gone.png" in lines[0] and "bad.png" in lines[1] and "2 of 4 inputs failed" in lines[2]
    assert [Path(entry["input"]).name for entry in json.loads(report.read_text()) if "error" in entry] == [
        "gone.png",
        "bad.png",
    ]


def test_a_checkpoint_can_be_named_by_its_file(photo: Path, shared: Path) -> None:
    weights = shared / "golden" / "edsr_basicsr_x4" / "weights.pth"
    answer = Answer("upscale", photo, "-s", 2.5, "-n", weights)
    assert answer.code == 0 and "its own ×4" in answer.out
    assert Answer("upscale", photo, "-s", 4, "-n", f"{weights}:res_scale=0.5").code == 0
    refused = Answer("upscale", photo, "-s", 3, "--exact-scale", "-n", weights)
    assert refused.failed_by_one_line(2, "leave out --exact-scale") and not photo.with_name("photo_x3.png").exists()


def test_every_kind_of_real_picture_passes(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "reallq" / "RealESRGAN_inputs"
    answer = Answer("upscale", folder, "-s", 1.3, "-n", "bicubic", "-o", f"{tmp_path / 'out'}/")
    assert answer.code == 0, answer.error
    for path in sorted(folder.iterdir()):
        before, after = (pyvips.Image.new_from_file(str(p)) for p in (path, tmp_path / "out" / path.name))
        assert (after.height, after.width) == (round(before.height * 1.3), round(before.width * 1.3))
        assert (after.bands, after.format) == (before.bands, before.format)


def test_a_long_run_is_announced_and_a_crop_is_cut_from_it(tmp_path: Path) -> None:
    photo = save(tmp_path / "photo.png", pixels(70, 90))
    wish = ["-s", 2.5, "-n", "bicubic", "-t", 32, "--fp32"]
    whole, part = tmp_path / "whole.png", tmp_path / "part.png"
    answer = Answer("upscale", photo, *wish, "-o", whole)
    line = (
        r"scalewise: whole.png: 225x175 in 9 tiles, about .* s, .*[MG]iB of memory, .*[KMG]iB of disk, "
        r"1\d% of the pixels .*\n"
    )
    assert answer.code == 0 and re.fullmatch(line, answer.error), answer.error
    small = Answer("upscale", photo, "-s", 2, "-n", "bicubic", "-t", 8, "-o", tmp_path / "small.png")
    assert "warning" in small.error
    assert Answer("upscale", photo, *wish, "-q", "--overwrite", "-o", whole).error == ""
    assert Answer("upscale", photo, *wish, "--crop", "30,20,40,16", "-o", part).code == 0
    assert np.array_equal(read(part), read(whole)[50:90, 75:175])


def test_an_output_beyond_its_format_or_disk_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalewise.execution.pages.enlarge", lambda *_, **__: pytest.fail("it began"))
    wide = save(tmp_path / "wide.png", pixels(2, 7000))
    for ext, limit in (("jpg", "65500"), ("webp", "16383")):
        answer = Answer("upscale", wide, "-s", 10, "-n", "bicubic", "--ext", ext)
        assert answer.failed_by_one_line(1, limit) and "write .tif" in answer.error
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100_000))
    full = Answer("upscale", wide, "-s", 10, "-n", "bicubic")
    assert full.failed_by_one_line(1, "of disk") and files(tmp_path) == ["wide.png"]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def missing(path: Path) -> None:
    pass


def text(path: Path) -> None:
    path.write_text("not a picture at all\n")


def empty(path: Path) -> None:
    path.touch()


def truncated(path: Path) -> None:
    save(path, pixels(64, 64))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("a.png", missing),
        ("a.png", text),
        ("a.png", empty),
        ("a.png", truncated),
        ("a.jpg", truncated),
        ("a.tif", truncated),
    ],
)
def test_a_bad_picture_is_one_line_and_no_output(tmp_path: Path, name: str, spoil: Callable[[Path], None]) -> None:
    spoil(tmp_path / name)
    before = files(tmp_path)
    report, out = tmp_path / "r.json", tmp_path / "out"
    answer = Answer("upscale", tmp_path / name, "-s", 2, "-n", "bicubic", "-o", f"{out}/", "--report", report)
    assert answer.failed_by_one_line(1, name)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (["-s", "0"], "scale 0 "),
        (["-s", "-1"], "scale -1 "),
        (["-s-1"], "scale -1 "),
        (["-s", "nan"], "scale nan "),
        (["-s", "1e9"], "scale 1e+09 "),
        (["-s", "inf"], "scale inf "),
        (["-s", "abc"], "'abc'"),
        (["-s", "2x"], "'2x'"),
        (["-s", "2x3x4"], "'2x3x4'"),
        (["-s", "2x0.5"], "scale 0.5 "),
        (["--size", "10x10"], "10x10"),
        (["--size", "0x10"], "'0x10'"),
        (["--size", "3840"], "'3840'"),
        (["--size", "9999999x9999999"], "too large"),
        (["--long-edge", "0"], "--long-edge 0"),
        (["--long-edge", "5"], "smaller"),
        ([], "say how large"),
        (["-s", "2", "--size", "99x99"], "say how large"),
        (["-s", "2", "--budget", "50%"], "one level of effort"),
        (["-s", "2", "--budget", "0"], "budget 0"),
        (["-s", "2", "--budget", "many"], "'many'"),
        (["-s", "2", "--budget", "nan"], "budget nan"),
        (["-s", "2", "--tile", "-3"], "--tile -3"),
        (["-s", "2", "--max-memory", "much"], "'much'"),
        (["-s", "2", "--crop", "1,2,3"], "'1,2,3'"),
        (["-s", "2", "--crop", "30,0,9,9"], "not inside"),
        (["-s", "2", "--engine", "steam"], "steam"),
        (["-s", "2", "--workers", "2"], "--engine local"),
        (["-s", "2", "--device", "abacus"], "'abacus'"),
        (["-s", "2", "--dtype", "fp8"], "fp8"),
        (["-s", "2", "--dtype", "bf16", "--fp32"], "contradict"),
        (["-s", "2", "--threads", "0"], "--threads 0"),
        (["-s", "2", "--quality", "101"], "101"),
        (["-s", "2", "--ext", "exe"], "exe"),
        (["-s", "2", "--suffix", "../x"], "--suffix"),
        (["-s", "2", "-n", "nothing"], "'nothing'"),
        (["-s", "9" * 5000], "is not a scale"),
        (["--size", "9" * 5000 + "x3"], "is not a size"),
        (["-s", "2", "--crop", "0,0,3," + "9" * 5000], "5006 characters"),
        (["-s", "2", "--max-memory", "9" * 400], "400 characters"),
        (["-s", "2", "--max-memory", "0"], "--max-memory 0"),
        (["-s", "2", "--max-memory", "0GiB"], "--max-memory 0GiB"),
        (["-s", "2", "--threads", "99999"], "--threads 99999"),
        (["-s", "2", "--engine", "ray", "--workers", "0"], "--workers 0"),
        (["--long-edge", "9" * 60], "at most 1000000"),
    ],
)  # fmt: skip
def test_a_wish_that_cannot_be_is_one_line_and_no_output(photo: Path, wish: list[str], words: str) -> None:
    before = files(photo.parent)
    answer = Answer("upscale", photo, "-n", "bicubic", *wish)
    assert answer.failed_by_one_line(2, words), (answer.code, answer.error)
    assert files(photo.parent) == before


@needs_fast
def test_a_budget_below_the_floor_says_the_floor(photo: Path) -> None:
    answer = Answer("upscale", photo, "-s", 2, "--budget", "0.1%")
    assert answer.failed_by_one_line(2, "floor") and files(photo.parent) == ["photo.png"]


def test_files_are_never_written_over_what_matters(photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    for places in (["-o", photo], ["--effort-map", photo], ["--report", photo]):
        answer = Answer("upscale", photo, "-s", 2, "-n", "bicubic", "--overwrite", *places)
        assert answer.failed_by_one_line(2, "an input")
    same = tmp_path / "same.png"
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic", "-o", same, "--effort-map", same).code == 2
    assert photo.read_bytes() == before and files(tmp_path) == ["photo.png"]
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic").code == 0
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic").failed_by_one_line(1, "exists")
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic", "--overwrite").code == 0


@pytest.mark.parametrize("out", ["no/such/out.png", "no/such/", "photo.png/", "out.xyz"])
def test_an_output_that_cannot_be_is_one_line(photo: Path, out: str) -> None:
    answer = Answer("upscale", photo, "-s", 2, "-n", "bicubic", "-o", f"{photo.parent}/{out}")
    assert answer.code == 1 and answer.error.count("\n") == 1 and answer.error.startswith("scalewise: ")
    assert files(photo.parent) == ["photo.png"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_one_line(photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic", "-o", f"{folder}/").failed_by_one_line(1, "locked")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that even the superuser cannot write to")
def test_a_folder_that_takes_no_files_is_one_line(photo: Path) -> None:
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic", "-o", "/proc/self/").failed_by_one_line(1, "/proc/self")


def test_several_inputs_need_folders(photo: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.png", pixels(8, 8))
    one_file = Answer("upscale", photo, other, "-s", 2, "-n", "bicubic", "-o", tmp_path / "out.png")
    assert one_file.failed_by_one_line(2, "folder")
    one_map = Answer("upscale", photo, other, "-s", 2, "-n", "bicubic", "--effort-map", tmp_path / "map.png")
    assert one_map.failed_by_one_line(2, "folder")


def test_an_interrupt_leaves_nothing(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiles, "render_tile", interrupted)
    out = photo.parent / "out"
    answer = Answer("upscale", photo, "-s", 2, "-n", "bicubic", "-o", f"{out}/")
    assert answer.failed_by_one_line(130, "interrupted")
    assert files(photo.parent) == ["photo.png"]


def test_what_we_did_not_expect_keeps_its_traceback(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tiles, "render_tile", broken)
    with pytest.raises(ZeroDivisionError):
        Answer("upscale", photo, "-s", 2, "-n", "bicubic")


def test_a_picture_in_the_place_of_a_command_says_what_was_meant(photo: Path, tmp_path: Path) -> None:
    for name in (photo, tmp_path, "no-such.jpg"):
        assert Answer(name, "-s", 2).failed_by_one_line(2, f"write scalewise upscale {name} -s 2")


def test_an_output_that_exists_names_the_option_that_helps(photo: Path) -> None:
    Answer("upscale", photo, "-s", 2, "-n", "bicubic")
    assert Answer("upscale", photo, "-s", 2, "-n", "bicubic").failed_by_one_line(1, "--overwrite replaces it")


def test_a_missing_extra_is_one_sentence(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every library of an extra that a command imports at once, without a word of its own."""
    for module in ("lightning", "fastapi", "rasterio"):

        def missing(*_: object, module: str = module, **__: object) -> None:
            raise ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.inside")

        monkeypatch.setattr("scalewise.zoo.load", missing)
        extra = format.EXTRAS[module]
        answer = Answer("upscale", photo, "-s", 2)
        assert answer.failed_by_one_line(2, f"needs {module}") and f"'scalewise[{extra}]'" in answer.error
    monkeypatch.setattr("scalewise.zoo.load", lambda *_, **__: __import__("scalewise.nothing"))
    with pytest.raises(ModuleNotFoundError):
        Answer("upscale", photo, "-s", 2)


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in format.EXTRAS.items():
        assert module.replace("_", "-") in [re.split(r"[\[<>=]", one)[0] for one in project[extra]], module


def test_what_a_command_takes_is_called_in_capitals_as_in_the_docs() -> None:
    commands: Any = typer.main.get_command(cli.app)
    for name, command in commands.commands.items():
        for taken in (one for one in command.params if one.param_type_name == "argument"):
            called = taken.metavar or taken.name
            assert called.isupper() or "|" in called, (name, called)


def test_brackets_survive_in_the_help() -> None:
    def command() -> None:
        """Needs pip install 'scalewise[app]'."""

    assert markup.render(cli.help_of(command)).plain == command.__doc__


def test_the_shell_completes_commands() -> None:
    code = (
        "import os; os.environ.update(_SCALEWISE_COMPLETE='complete_bash', COMP_WORDS='scalewise ups', COMP_CWORD='1')"
    )
    assert run(code=f"{code}; from scalewise.cli import main; main()").stdout.split() == ["upscale"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_does_not_stick_to_what_was_said_before_and_goes_before_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError), format.progress_bar() as bar:
        assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
        print("said before", file=sys.stderr)
        bar("[b]photo\x1b.png", 0.0)
        bar("[b]photo\x1b.png", 0.5)
        raise KeyError
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert shown.startswith("said before\n") and "[b]photo\\x1b.png" in shown
    assert shown.endswith("\x1b[2K"), "the line of the bar is empty in the end"


def test_usage_errors_are_exit_code_2(photo: Path) -> None:
    assert Answer("upscale", photo, "--nonsense").code == 2
    assert Answer("enlarge", photo).code == 2


# --- as a process -----------------------------------------------------------------------------------------------------


def run(*arguments: object, code: str = "from scalewise.cli import main; main()") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "latin-1"}
    return subprocess.run(command, env=environment, capture_output=True, encoding="latin-1")


def test_names_that_the_terminal_cannot_show_are_no_error(tmp_path: Path) -> None:
    photo = save(tmp_path / "大.png", pixels(8, 8))  # and × is in the line
    done = run("upscale", photo, "-s", "2x1", "-n", "bicubic")
    assert done.returncode == 0, done.stderr
    assert "\\u5927_2x1.png" in done.stdout
    bad = run("upscale", photo, "-s", "1e9")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1) and "Traceback" not in bad.stderr


@pytest.mark.parametrize("command", ["upscale", "evaluate", "doctor"])
def test_the_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    code = """
import sys
from scalewise.cli import main
try:
    main()
except SystemExit:
    print("LOADED", sorted({"torch", "pyvips", "numpy"} & set(sys.modules)))
"""
    assert "LOADED []" in run(command, "--help", code=code).stdout


# --- the other commands -----------------------------------------------------------------------------------------------


def test_every_model_of_the_zoo_is_listed() -> None:
    answer = Answer("models")
    assert answer.code == 0
    assert all(re.search(rf"^{name} ", answer.out, re.MULTILINE) for name in ("fast", "bicubic", "edsr-liif"))


def test_the_doctor_reads_no_heic_with_the_libvips_of_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    from scalewise.cli import doctor

    def reads(wheel: str | None) -> str:
        monkeypatch.setattr(doctor, "_version", lambda name: wheel)
        return next(found for found in doctor._formats() if found.name == "reads").value

    assert "heic" not in reads("8.18").split() and "avif" in reads("8.18").split()
    assert "heic" in reads(None).split()


def test_the_doctor_says_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from scalewise import zoo

    monkeypatch.setattr(zoo, "MODELS", {"bicubic": zoo.MODELS["bicubic"]})
    healthy = Answer("doctor")
    assert healthy.code == 0 and "libvips" in healthy.out and "avif" in healthy.out
    lost = zoo.Entry("lost", zoo.bicubic, "no-such-file.safetensors")
    monkeypatch.setattr(zoo, "MODELS", {"a-model-with-a-long-name": lost})
    ill = Answer("doctor")
    assert ill.failed_by_one_line(1, "model a-model-with-a-long-name")
    for lines in (healthy.out.splitlines(), ill.out.splitlines()):
        columns = [re.match(r"\S+(?: \S+)*\s{2,}", line) for line in lines]
        assert len({column.end() for column in columns if column}) == 1 and all(columns), "values stand in one column"
    for what in ("processor", "bf16", "memory", "cache folder", "threads", "lightning"):
        assert any(line.startswith(f"{what} ") for line in healthy.out.splitlines()), what


def test_a_checkpoint_is_described_and_converted(photo: Path, shared: Path, tmp_path: Path) -> None:
    weights = shared / "golden" / "edsr_basicsr_x4" / "weights.pth"
    described = Answer("inspect", weights)
    assert described.code == 0 and "EDSR" in described.out and "assumed" in described.out
    assert json.loads(Answer("inspect", "--json", weights).out)["scales"] == [4]
    shipped = Answer("inspect", WEIGHTS)
    assert "{" not in shipped.out and re.search(r"^×3 +50% +49\.9% +32\.09$", shipped.out, re.MULTILINE)
    ours = tmp_path / "ours.safetensors"
    assert Answer("convert", weights, ours).code == 0
    assert Answer("convert", weights, ours).failed_by_one_line(1, "exists")
    assert Answer("convert", f"{weights}:nonsense=1", tmp_path / "b.safetensors").failed_by_one_line(2, "nonsense")
    for model, name in ((weights, "a.png"), (ours, "b.png")):
        assert Answer("upscale", photo, "-s", 4, "-n", model, "-o", tmp_path / name).code == 0
    assert np.array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))
    assert Answer("inspect", tmp_path / "none.pth").failed_by_one_line(1, "none.pth")
    assert Answer("inspect", photo).failed_by_one_line(1, "photo.png")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for index in range(2):
        save(tmp_path / "set" / f"{index}.png", pixels(130, 132 + index))
    return tmp_path / "set"


def test_evaluate_prints_and_writes_the_means(dataset: Path, tmp_path: Path) -> None:
    report = tmp_path / "e.json"
    answer = Answer("evaluate", "-n", "bicubic", "--data", dataset, "--scale", 2, "--json", report)
    assert answer.code == 0 and "protocol default" in answer.out
    found = json.loads(report.read_text())
    assert {"psnr", "ssim", "macs_share", "seconds"} <= found["mean"].keys() and len(found["images"]) == 2
    assert f"{found['mean']['psnr']:.3f}" in answer.out
    (dataset / "2.png").write_text("no picture")
    skipped = Answer("evaluate", "-n", "bicubic", "--data", dataset, "--scale", 2)
    assert skipped.failed_by_one_line(1, "skipped 2")


@needs_fast
def test_evaluate_counts_the_budget(dataset: Path) -> None:
    for more in ([], ["--self-ensemble"], ["--protocol", "classsr", "-s", 4]):
        answer = Answer("evaluate", "--data", dataset, "-s", 3, "--budget", "50%", *more)
        assert answer.code == 0, answer.error
        shares = [float(share) for share in re.findall(r"([\d.]+)%", answer.out)]
        assert len(shares) == 3 and all(0 < share <= 51 for share in shares)


def test_evaluate_says_what_cannot_be(dataset: Path) -> None:
    assert Answer("evaluate", "-n", "bicubic", "--data", dataset / "no").failed_by_one_line(1, "no folder")
    for more, words in (
        (["--protocol", "mine"], "'mine'"),
        (["--protocol", "liif-benchmark"], "published LR"),
        (["--scale", "nan"], "nan"),
        (["--metric", "beauty"], "'beauty'"),
        (["--budget", "50%"], "one level of effort"),
    ):
        assert Answer("evaluate", "-n", "bicubic", "--data", dataset, *more).failed_by_one_line(2, words)


def test_a_network_can_be_told_smaller_cells_than_the_picture_has(dataset: Path, shared: Path) -> None:
    weights = shared / "golden" / "liif_full" / "weights.pth"
    command = ["evaluate", "-n", weights, "--data", dataset, "-s", 6]
    plain, told = (Answer(*command, "--protocol", name) for name in ("liif-div2k", "liif-div2k:cell_clip=4"))
    assert plain.code == told.code == 0, told.error
    assert plain.out.splitlines()[-1] != told.out.splitlines()[-1]
    fixed = Answer("evaluate", "-n", "bicubic", "--data", dataset, "-s", 6, "--protocol", "liif-div2k:cell_clip=4")
    assert fixed.code == 0  # it does not listen, and need not


@needs_fast
def test_calibrate_measures_each_budget(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    answer = Answer("calibrate", "--data", dataset, "-s", 2, "--budgets", "50,100", "--json", out)
    assert answer.code == 0, answer.error
    points = json.loads(out.read_text())["points"]
    assert [point["budget"] for point in points] == [0.5, 1.0]
    assert points[0]["share"] <= 0.51 and points[1]["share"] == pytest.approx(1)
    assert Answer("calibrate", "--data", dataset, "--budgets", "0,50").failed_by_one_line(2, "budget 0")


@needs_fast
def test_curve_draws_models_above_the_floor(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture, out = tmp_path / "c.png", tmp_path / "c.json"
    answer = Answer("curve", "--data", dataset, "-s", 2, "--budgets", "50,100", "-o", picture, "--json", out)
    assert answer.code == 0, answer.error
    assert {point["model"] for point in json.loads(out.read_text())["points"]} == {"bicubic", "fast"}
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"


def test_reproduce_prints_published_beside_ours(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    dataset.rename(tmp_path / "all" / "Set5")
    answer = Answer("reproduce", "bicubic", "--data", tmp_path / "all")
    assert answer.code == 0
    rows = [line for line in answer.out.splitlines() if " Set5 " in line]
    assert len(rows) == 3 and all(re.search(r"33\.66|30\.39|28\.42", row) and re.search(r"[+-]\d", row) for row in rows)
    assert "no data: B100" in answer.out
    out = tmp_path / "table.csv"
    assert Answer("reproduce", "bicubic", "--format", "csv", "-o", out).code == 0
    assert out.read_text().startswith("method,")
    assert Answer("reproduce", "no-table").failed_by_one_line(2, "no-table")
    assert Answer("reproduce", "bicubic", "--method", "magic").failed_by_one_line(2, "magic")
    assert Answer("reproduce", "bicubic", "--weights", "bicubic").failed_by_one_line(2, "METHOD=FILE")
    assert Answer("reproduce", "bicubic", "--metric", "niqe").failed_by_one_line(2, "NAME=FUNCTION")
    assert Answer("reproduce", "bicubic", "--metric", "vibes=a:b").failed_by_one_line(2, "there are lpips")


def test_evaluate_goes_in_steps_and_without_originals(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def width(sr, hr):\n    return sr.shape[-1] if hr is None else 0\n")
    own = f"{tmp_path / 'mine.py'}:width"
    answer = Answer("evaluate", "-n", "bicubic", "--data", dataset, "-s", 3, "--without-hr", "--metric", own)
    assert answer.code == 0, answer.error
    assert "psnr" not in answer.out and own in answer.out
    whole, steps = (
        json.loads(Path(out).read_text())["mean"]["psnr"]
        for out, more in ((tmp_path / "a.json", ()), (tmp_path / "b.json", ("--through", "2")))
        if Answer("evaluate", "-n", "bicubic", "--data", dataset, "-s", 4, "--json", out, *more).code == 0
    )
    assert whole != steps
    command = ("evaluate", "-n", "bicubic", "--data", dataset, "-s", 4)
    assert Answer(*command, "--through", "4,2").failed_by_one_line(2, "rising factors")
    assert Answer(*command, "--through", "two").failed_by_one_line(2, "write factors")
    assert Answer(*command, "--estimates").failed_by_one_line(2, "estimate the PSNR")
    assert Answer(*command, "--estimates", "--without-hr").failed_by_one_line(2, "there are none")
    assert Answer(*command, "--protocol", "liif-div2k", "--without-hr").failed_by_one_line(2, "leave out --protocol")


# --- what is written and what is documented ---------------------------------------------------------------------------


def test_width_comes_first_on_the_command_line() -> None:
    assert parse_scale("2x1.5") == (1.5, 2.0)
    assert parse_size("3840x2160") == (2160, 3840)
    assert parse_size("3840x") == (None, 3840) and parse_size(" X2160 ") == (2160, None)
    assert options.parse_budgets("50,100%,25") == [0.25, 0.5, 1.0]
    for wrong in ("٣x", "x", "0x5", "3840", "1x2x3", "9" * 200 + "x1"):
        with pytest.raises(InvalidRequest, match="is not a size"):
            parse_size(wrong)
    dials = options.parse_dials(["eta=0.1,2", "k=1"], ["a", "b"])
    assert [one.value for one in dials["a"]] == [0.1, 2.0] and [one.dial for one in dials["b"]] == ["k"]
    assert options.parse_dials(["eta=1"], ["a", "b"])["b"] == options.parse_dials(["eta=1"], ["b"])["b"]
    for wrong, models in ((["eta=1", "k=1"], ["a"]), (["eta"], ["a"]), (["size=3"], ["a"])):
        with pytest.raises((InvalidRequest, BudgetInfeasible)):
            options.parse_dials(wrong, models)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 "), (999, "999 "), (999.9, "1 k"), (4.89e9, "4.89 G"), (2e12, "2 T"), (3e16, "30 P")]
)
def test_amounts_have_three_figures(value: float, text: str) -> None:
    assert format.amount(value) == text


def test_every_command_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        assert f"## scalewise {name}" in page
        section = page.partition(f"## scalewise {name}\n")[2].partition("\n## ")[0]
        shared = page.partition("## Options of several commands\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}" in section + shared, f"{name} {option}"
