"""Clips from file to file: streams, times, colour, interruption, and refusals of one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")

import av
from video.clips import pan, read, screen, write

from scalewise.budget.meter import listening
from scalewise.errors import (
    BudgetInfeasible,
    Cancelled,
    InvalidRequest,
    MissingDependency,
    ScalewiseError,
    UnreadableImage,
)
from scalewise.execution.plan import RunOptions
from scalewise.machine.memory import used_bytes
from scalewise.video import upscale_video
from scalewise.video.clip import Damage, open_clip, pictures
from scalewise.video.colour import Colour, Layout, decoded, encoded
from scalewise.video.convert import plan_video
from scalewise.video.parts import folder_of, whole_frames
from scalewise.video.report import Progress
from scalewise.video.request import VideoRequest
from scalewise.video.seconds import parse_budget

QUICK: dict[str, Any] = {"model": "bicubic", "preset": "ultrafast"}


def streams(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        context = video.codec_context
        return {
            "kinds": sorted(s.type for s in container.streams if s.type in ("video", "audio", "subtitle")),
            "codec": context.name,
            "format": context.pix_fmt,
            "size": (context.height, context.width),
            "colour": (context.color_range, context.color_primaries, context.color_trc, context.colorspace),
            "aspect": video.sample_aspect_ratio,
            "metadata": dict(container.metadata),
            "chapters": [chapter["metadata"].get("title") for chapter in container.chapters()],
        }


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_streams_times_and_metadata_go_along(tmp_path: Path, name: str) -> None:
    source = write(
        tmp_path / "in.mkv",
        screen(20),
        sound=True,
        subtitles=True,
        metadata={"title": "Talk"},
        chapters=[(0, 400, "one"), (400, 800, "two")],
    )
    report = upscale_video(source, tmp_path / name, 2, **QUICK)
    found, (frames, times) = streams(tmp_path / name), read(tmp_path / name)
    assert report.frames == len(frames) == 20
    assert times == read(source)[1]
    assert found["size"] == (128, 192)
    assert found["kinds"] == (["audio", "subtitle", "video"] if name == "out.mkv" else ["audio", "video"])
    assert ("left out" in " ".join(report.notes)) == (name == "out.mp4")
    assert found["metadata"]["title"] == "Talk"
    assert found["chapters"] == ["one", "two"]
    assert not folder_of(tmp_path / name).exists()
    with av.open(str(source)) as a, av.open(str(tmp_path / name)) as b:
        sound = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (a, b)]
    assert sound[0] == sound[1]


def test_a_variable_frame_rate_stays(tmp_path: Path) -> None:
    times = [0, 3003, 9009, 10510, 24024, 27027]
    source = write(
        tmp_path / "in.mp4",
        pan(6),
        codec="libx264",
        pix_fmt="yuv420p",
        times=times,
        base=Fraction(1, 90000),
    )
    upscale_video(source, tmp_path / "out.mp4", 1.5, **QUICK)
    assert read(tmp_path / "out.mp4")[1] == read(source)[1] == [Fraction(t, 90000) for t in times]


@pytest.mark.parametrize("times", [[0, 40, 80, 120, 160], [0, 40, 80, 200, 440, 500]])
def test_the_length_and_the_rate_that_a_file_says_stay(tmp_path: Path, times: list[int]) -> None:
    made: Any = {"codec": "libx264", "pix_fmt": "yuv420p", "options": {"bf": "0"}}
    source = write(tmp_path / "in.mp4", pan(len(times)), times=times, base=Fraction(1, 1000), **made)
    for name in ("out.mp4", "out.mkv"):
        upscale_video(source, tmp_path / name, 2, **QUICK)
        with av.open(str(source)) as before, av.open(str(tmp_path / name)) as after:
            assert before.duration is not None and after.duration is not None
            assert abs(before.duration - after.duration) <= 1000  # microseconds: times in .mkv are in milliseconds
            if name == "out.mkv":
                assert after.streams.video[0].average_rate == before.streams.video[0].average_rate


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1", "prores"])
def test_every_codec_gives_the_picture_back(tmp_path: Path, codec: str) -> None:
    frames = pan(4)
    source = write(tmp_path / "in.mkv", frames)
    output = tmp_path / {"ffv1": "out.mkv", "prores": "out.mov"}.get(codec, "out.mp4")
    upscale_video(source, output, 1, codec=codec, model="bicubic")
    error = np.mean([(a.astype(float) - b) ** 2 for a, b in zip(read(output)[0], frames, strict=True)])
    assert error == 0 if codec == "ffv1" else 10 * np.log10(255**2 / error) > 27  # saturated colours of a few pixels


def test_colour_tags_stay_and_a_guess_is_written_down(tmp_path: Path) -> None:
    hdr = {"color_range": 1, "color_primaries": 9, "color_trc": 16, "colorspace": 9}
    deep = [frame.astype(np.uint16) * 257 for frame in pan(3)]
    source = write(
        tmp_path / "hdr.mp4",
        deep,
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags=hdr,
        matrix=9,
        options={"x265-params": "log-level=error"},
    )
    upscale_video(source, tmp_path / "out.mp4", 2, **QUICK)
    found = streams(tmp_path / "out.mp4")
    assert (found["codec"], found["format"], found["colour"]) == ("hevc", "yuv420p10le", (1, 9, 16, 9))
    plain = write(tmp_path / "sd.mp4", pan(3), codec="libx264", pix_fmt="yuv420p", matrix=5)
    upscale_video(plain, tmp_path / "sd2.mp4", 2, **QUICK)
    assert streams(tmp_path / "sd2.mp4")["colour"][3] == 6  # a player would take 720 rows for BT.709


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv444p10le", "yuva444p10le"])
def test_colours_survive_the_way_there_and_back(name: str, matrix: int, full: bool) -> None:
    """Flat fields of colour: within 2 levels of 8 bits, 1.5 of 10 bits, and white is what the standards say."""
    generator = np.random.default_rng(0)
    deep = "10" in name
    top = 65535 if deep else 255
    fields = generator.integers(0, top + 1, (4, 6, 3))
    fields[0, 0], fields[0, 1] = top, 0
    pixels = fields.repeat(16, 0).repeat(16, 1).astype(np.uint16 if deep else np.uint8)
    layout, colour = Layout.of(av.VideoFormat(name)), Colour(2 if full else 1, 2, 2, matrix)
    if layout.alpha:
        pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], top // 3)], -1)
    frame = encoded(pixels, name, layout, colour)
    back = decoded(frame, layout, colour)
    assert back.dtype == pixels.dtype and back.shape == pixels.shape
    error = np.abs(back.astype(int) - pixels)[8::16, 8::16].max()
    assert error <= (1.5 * 65535 / 1023 * 1.5 if deep else 2)
    luma = np.frombuffer(bytes(frame.planes[0]), np.uint16 if deep else np.uint8)[8]
    assert luma == ((1023 if full else 940) if deep else (255 if full else 235))


def test_alpha_stays_in_ffv1_and_prores(tmp_path: Path) -> None:
    frames = [np.concatenate([frame, np.full_like(frame[..., :1], 90)], -1) for frame in screen(3)]
    source = write(tmp_path / "in.mkv", frames, pix_fmt="bgra")
    for name in ("out.mkv", "out.mov"):
        upscale_video(source, tmp_path / name, 2, model="bicubic")
        made = read(tmp_path / name)[0]
        assert np.abs(made[1][..., 3].astype(int) - 90).max() <= 1
    report = upscale_video(source, tmp_path / "out.mp4", 2, **QUICK)
    assert "transparency" in " ".join(report.notes)


def test_rotation_and_pixel_aspect(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.mp4", screen(3), codec="libx264", pix_fmt="yuv420p", rotation=90, aspect=Fraction(64, 45)
    )
    upscale_video(source, tmp_path / "out.mp4", 2, **QUICK)
    found = streams(tmp_path / "out.mp4")
    assert found["size"] == (192, 128)  # upright
    assert found["aspect"] == Fraction(45, 64)
    wide = write(tmp_path / "wide.mp4", screen(3), codec="libx264", pix_fmt="yuv420p", aspect=Fraction(4, 3))
    upscale_video(wide, tmp_path / "square.mp4", size=(96, 192), **QUICK)  # 96×64 shown as 2:1
    assert streams(tmp_path / "square.mp4")["aspect"] in (None, 1)


def test_a_span_begins_at_zero_and_its_sound_with_it(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mkv", pan(25), sound=True)
    report = upscale_video(source, tmp_path / "out.mkv", 1.5, start=0.2, stop=0.6, **QUICK)
    frames, times = read(tmp_path / "out.mkv")
    assert report.frames == len(frames) == 10
    assert times[0] == 0 and float(times[-1]) == pytest.approx(0.36, abs=0.002)
    with av.open(str(tmp_path / "out.mkv")) as container:
        sound = [float(p.pts * p.time_base) for p in container.demux(audio=0) if p.size and p.pts is not None]
    assert 0 <= sound[0] < 0.03 and 0.35 < sound[-1] < 0.45


def test_frames_as_pictures(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mkv", screen(5))
    upscale_video(source, tmp_path / "frames", 2, model="bicubic", codec="png-folder")
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [*(f"{k:06}.png" for k in range(1, 6)), "timestamps.txt"]
    lines = (tmp_path / "frames" / "timestamps.txt").read_text().split("\n")
    assert lines[:3] == ["# timestamp format v2", "0.000", "40.000"]


def test_the_effort_map_is_a_video_of_the_same_times(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mkv", screen(8))
    upscale_video(source, tmp_path / "out.mp4", 2, effort_map=tmp_path / "map.mp4", **QUICK)
    frames, times = read(tmp_path / "map.mp4")
    assert times == read(source)[1]
    assert frames[0].shape == (64, 96, 3)
    spread = [frame.astype(int).std() for frame in frames]
    assert max(spread) > 10  # the patches of the cursor are bright


def test_cancelled_and_resumed_twice_is_the_whole_clip(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.mkv", pan(60), sound=True), tmp_path / "out.mp4"
    asked: dict[str, Any] = {**QUICK, "still": 0}
    for stop in (25, 40):
        with pytest.raises(Cancelled) as error:
            upscale_video(source, output, 1.5, resume=True, progress=lambda p, stop=stop: p.done < stop, **asked)
        assert "resuming goes on" in error.value.__notes__[0]
        assert not output.exists()
    with pytest.raises(InvalidRequest, match="resume it"):
        upscale_video(source, output, 1.5, **asked)
    with pytest.raises(InvalidRequest, match="another crf"):
        plan_video(source, output, VideoRequest(1.5, resume=True, crf=30, still=0, preset="ultrafast"), model="bicubic")
    bf16 = VideoRequest(1.5, resume=True, still=0, preset="ultrafast", options=RunOptions(dtype="bf16"))
    with pytest.raises(InvalidRequest, match="another dtype"):
        plan_video(source, output, bf16, model="bicubic")
    report = upscale_video(source, output, 1.5, resume=True, **asked)
    frames, times = read(output)
    assert report.frames == len(frames) == 60 and times == read(source)[1]
    whole = tmp_path / "whole.mp4"
    upscale_video(source, whole, 1.5, **asked)
    difference = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, read(whole)[0], strict=True)]
    assert max(difference) < 3  # other keyframes, and the same pictures
    assert streams(output)["kinds"] == ["audio", "video"]


def test_what_a_kill_leaves_plays_and_goes_on(tmp_path: Path) -> None:
    """The folder as it was at some frame, with the file cut off in the middle of a group of pictures: three times."""
    source, output = write(tmp_path / "in.mkv", pan(84, 48, 64), rate=10), tmp_path / "out.mp4"
    folder, killed = folder_of(output), tmp_path / "killed"
    asked: dict[str, Any] = {**QUICK, "still": 0, "resume": True}
    kept = 0
    for at in (27, 47, 68):  # a group of pictures is 20 frames

        def snapshot(progress: Any, at: int = at) -> bool:
            if progress.done >= at:
                shutil.copytree(folder, killed)
            return progress.done < at

        with pytest.raises(Cancelled):
            upscale_video(source, output, 2, progress=snapshot, **asked)
        shutil.rmtree(folder)
        killed.rename(folder)
        whole = [(path, whole_frames(path, False)) for path in sorted(folder.glob("part-*.mp4"))]
        assert sum(count for _, count in whole) > kept
        assert all(len(read(path)[0]) >= count for path, count in whole if count)
        kept = sum(count for _, count in whole)
    report = upscale_video(source, output, 2, **asked)
    frames, times = read(output)
    assert report.frames == len(frames) == 84 and times == read(source)[1]
    assert not folder.exists()


@pytest.mark.slow
def test_a_thousand_frames_killed_three_times(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.mkv", pan(1000, 48, 64)), tmp_path / "out.mp4"
    command = [sys.executable, "-m", "scalewise", "video", str(source), str(output), "-s", "2", "-n", "bicubic"]
    command += ["--preset", "ultrafast", "--resume"]
    kept, part = 0, folder_of(output)
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None:
            if sum(whole_frames(path, False) for path in part.glob("part-*.mp4")) > kept + 100:
                break
        process.kill()
        process.communicate()
        kept = sum(whole_frames(path, False) for path in part.glob("part-*.mp4"))
        assert kept and not output.exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames, times = read(output)
    assert len(frames) == 1000 and times == read(source)[1]
    assert not part.exists()


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_frames(tmp_path: Path) -> None:
    """From frame 100 to 1000 within 5% of what is held there, sound and effort map included."""
    source = write(tmp_path / "in.mkv", screen(1000, 48, 64), sound=True)
    held: list[int] = []

    def look(progress: Progress) -> None:
        held.append(used_bytes(torch.device("cpu")))

    asked: dict[str, Any] = {"model": "fast", "budget": "40%", "preset": "ultrafast"}
    upscale_video(source, tmp_path / "out.mp4", 2, effort_map=tmp_path / "map.mp4", progress=look, **asked)
    assert len(held) == 1000
    assert max(held[100:]) <= 1.05 * held[100] and min(held[100:]) >= 0.95 * held[100]


def test_interlaced_is_refused_with_advice_and_mended(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mkv", pan(6), codec="libx264", pix_fmt="yuv420p", options={"x264-params": "tff=1"})
    with pytest.raises(InvalidRequest, match="deinterlacing"):
        upscale_video(source, tmp_path / "out.mp4", 2, **QUICK)
    report = upscale_video(source, tmp_path / "out.mp4", 2, deinterlace=True, **QUICK)
    assert report.frames == 6


def test_odd_sizes(tmp_path: Path) -> None:
    odd = [np.ascontiguousarray(frame[:63, :95]) for frame in screen(3)]
    source = write(tmp_path / "in.mkv", odd, codec="libx264", pix_fmt="yuv444p")
    assert upscale_video(source, tmp_path / "same.mkv", 1, **QUICK).size == (63, 95)
    even = write(tmp_path / "even.mkv", screen(3), codec="libx264", pix_fmt="yuv420p")
    assert upscale_video(even, tmp_path / "near.mp4", 1.51, **QUICK).size == (96, 144)  # 96.64 × 144.96
    with pytest.raises(InvalidRequest, match="200x132"):
        upscale_video(even, tmp_path / "out.mp4", size=(131, 200), **QUICK)


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "text", "playlist", "sound", "no frames", "codec", "cut", "header"]
)
def test_what_is_no_video_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "in.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video at all\n" * 50)
    elif kind == "playlist":  # FFmpeg would read what it names
        path.write_text(f"ffconcat version 1.0\nfile '{write(tmp_path / 'other.mkv', screen(2))}'\n")
    elif kind == "no frames":
        path = tmp_path / "in.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"  # type: ignore[attr-defined]
            container.start_encoding()
    elif kind == "codec":
        content = write(tmp_path / "other.mkv", screen(2)).read_bytes()
        path.write_bytes(content.replace(b"V_FFV1", b"V_NONE"))
    elif kind == "sound":
        path = tmp_path / "in.m4a"
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate = 48000
            container.mux([*stream.encode(frame), *stream.encode(None)])  # type: ignore[attr-defined]
    elif kind in ("cut", "header"):
        write(path, screen(3), codec="libx264", pix_fmt="yuv420p")
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2 if kind == "cut" else 40])
    with pytest.raises(UnreadableImage) as error:
        upscale_video(path, tmp_path / "out.mp4", 2, **QUICK)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    says = {"playlist": "playlist", "no frames": "before the first frame", "codec": "a codec that FFmpeg does not know"}
    assert says.get(kind, "") in str(error.value)
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, "other.mkv"}


def test_frames_that_are_too_large_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw: dict[str, Any] = {"codec": "libx264", "pix_fmt": "yuv420p"}
    small, large = write(tmp_path / "a.h264", screen(3), **raw), write(tmp_path / "b.h264", screen(3, 128, 192), **raw)
    (tmp_path / "c.h264").write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(UnreadableImage, match="192x128"):
        open_clip(large, max_pixels=10_000)
    clip = open_clip(tmp_path / "c.h264")
    with pytest.raises(UnreadableImage, match="changes from 96x64 to 192x128"):
        list(pictures(clip))
    monkeypatch.setattr("scalewise.video.clip.MAX_PIXELS", 10_000)
    damage = Damage()
    assert list(pictures(clip, damage=damage)) and damage.packets > 0


def test_a_file_that_does_not_say_how_long_it_is_is_counted(tmp_path: Path) -> None:
    with (
        av.open(str(write(tmp_path / "in.mkv", pan(30)))) as told,
        av.open(str(tmp_path / "live.mkv"), "w", options={"live": "1"}) as live,
    ):
        stream = live.add_stream_from_template(told.streams.video[0])
        for packet in told.demux(video=0):
            if packet.size:
                packet.stream = stream
                live.mux(packet)
    with av.open(str(tmp_path / "live.mkv")) as live:
        assert live.duration is None and not live.streams.video[0].duration
    clip = open_clip(tmp_path / "live.mkv")
    assert clip.frames == 30 and clip.seconds == pytest.approx(1.2)


def test_a_run_may_end_while_frames_are_passed_over(tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path / "in.mkv", screen(30), codec="libx264", pix_fmt="yuv420p"))
    heard: list[int] = []

    def end(macs: int) -> None:
        heard.append(macs)
        if len(heard) == 5:
            raise Cancelled("enough")

    with listening(end), pytest.raises(Cancelled):
        next(pictures(clip, first=clip.ticks(1.0)))


def test_a_truncated_file_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mkv", pan(40), options={"g": "1"})
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 2 // 3])
    report = upscale_video(source, tmp_path / "out.mp4", 1, **QUICK)
    assert 15 < report.frames < 40 == 40
    assert len(read(tmp_path / "out.mp4")[0]) == report.frames


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"codec": "vp8"}, "allowed are"),
        ({"codec": "ffv1"}, ".mkv"),
        ({"crf": 99}, "0 .best. to 51"),
        ({"budget": "2e9macs"}, "realtime"),
        ({"start": 5.0}, "beyond the end"),
        ({"start": 0.1, "stop": 0.05}, "after the start"),
        ({"budget": "0.001s"}, r"^budget 0\.001 s is below what this clip needs on this machine, about [0.]*[1-9]"),
        ({"effort_map": "map.png"}, "name a video"),
        ({"budget": "50%"}, "one level"),
    ],
)
def test_what_cannot_be_is_refused_before_work(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    source = write(tmp_path / "in.mkv", screen(3))
    with pytest.raises(ScalewiseError, match=message):
        upscale_video(source, tmp_path / "out.mp4", 2, model="bicubic", **asked)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"], "a run that is refused leaves nothing to resume"


def test_an_output_that_exists_stays(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mkv", screen(3))
    before = source.read_bytes()
    (tmp_path / "out.mp4").write_text("mine")
    for output in (tmp_path / "out.mp4", source):
        with pytest.raises(ScalewiseError):
            upscale_video(source, output, 2, **QUICK)
    assert source.read_bytes() == before and (tmp_path / "out.mp4").read_text() == "mine"


def test_without_pyav_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.mkv", screen(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"scalewise\[video\]"):
        upscale_video(source, tmp_path / "out.mp4", 2, **QUICK)


def test_budgets_of_a_clip() -> None:
    assert parse_budget("realtime", 12.5).value == 12.5
    assert parse_budget("2min", 0).value == 120
    assert parse_budget("1.5h", 0).value == 5400
    assert parse_budget("40%", 0).value == 0.4
    assert parse_budget("90s", 0).value == 90
    for text in ("realtime", "5 days"):
        with pytest.raises(BudgetInfeasible):
            parse_budget(text, 0)


def test_light_metadata_stays(tmp_path: Path) -> None:
    params = "log-level=error:max-cll=1000,400:master-display="
    params += "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)"
    deep = [frame.astype(np.uint16) * 257 for frame in pan(2)]
    options = {"x265-params": params}
    source = write(tmp_path / "in.mp4", deep, codec="libx265", pix_fmt="yuv420p10le", matrix=9, options=options)
    assert open_clip(source).hdr["light"] == (1000, 400)
    upscale_video(source, tmp_path / "out.mp4", 2, **QUICK)
    assert open_clip(tmp_path / "out.mp4").hdr == open_clip(source).hdr


def test_light_metadata_becomes_parameters_of_the_encoder() -> None:
    from scalewise.video.hdr import encoder_params

    light = {
        "mastering": (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329, 0.0001, 1000.0),
        "light": (1000.0, 400.0),
    }
    assert encoder_params(light, "libx265") == [
        "master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)",
        "max-cll=1000,400",
    ]
    assert encoder_params(light, "ffv1") == []


def test_the_layout_of_pixel_formats() -> None:
    found = {name: Layout.of(av.VideoFormat(name)) for name in ("yuv420p", "yuv422p10le", "gbrap12le", "gray", "nv12")}
    assert found["yuv420p"] == Layout("420", 8, False) == found["nv12"]
    assert found["yuv422p10le"] == Layout("422", 10, False)
    assert found["gbrap12le"] == Layout("rgb", 12, True)
    assert found["gray"] == Layout("gray", 8, False)
