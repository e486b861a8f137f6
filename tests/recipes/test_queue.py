"""A queue of trainings: what its file says, what is refused before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalewise.errors import InvalidRequest
from scalewise.recipes.queue import read_queue

ROOT = Path(__file__).resolve().parent.parent.parent


def written(folder: Path, text: str) -> Path:
    path = folder / "queue.toml"
    path.write_text(text)
    return path


def test_trainings_are_read_in_order_with_folders_next_to_the_file(tmp_path: Path) -> None:
    text = '[[training]]\nrecipe = "fast"\ndata = "a"\nsteps = 100\n[[training]]\nrecipe = "quality"\ndata = ["a", "b"]'
    first, second = read_queue(written(tmp_path, text))
    assert (first.recipe, first.data, first.found().steps) == ("fast", (tmp_path / "a",), 100)
    assert second.data == (tmp_path / "a", tmp_path / "b") and second.val is None


def test_a_training_may_begin_with_a_network_or_a_file_next_to_the_queue(tmp_path: Path) -> None:
    text = """
    [[training]]
    recipe = "photo"
    start = "quality"
    stage = "finish"
    [[training]]
    recipe = "best"
    start = "runs/best/best.safetensors"
    """
    first, second = read_queue(written(tmp_path, text))
    assert (first.start, second.start) == ("quality", str(tmp_path / "runs/best/best.safetensors"))
    assert [stage.name for stage in first.found().stages] == ["finish", "router"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists nothing"),
        ("[[training]", "cannot be read"),
        ('[[training]]\nrecipe = "fats"', "no recipe is called 'fats'"),
        ('[[training]]\nrecipe = "fast"\nsteps = "many"', "steps = 'many' is not of the right kind"),
        ('[[training]]\nrecipe = "fast"\nspeed = 3', "has speed: allowed are recipe, data,"),
        ("[[training]]\nsteps = 3", "no recipe"),
        ('[[training]]\nrecipe = "fast"\nstage = "router"', "a stage to begin at and no weights"),
        (
            '[[training]]\nrecipe = "fast"\nstart = "fast"\nstage = "end"',
            "fast has no stage 'end': its stages are exits,",
        ),
        ('[[training]]\nrecipe = "fast"\nstart = 3', "start = 3 is not of the right kind"),
        ('[[training]]\nrecipe = "fast"\nout = 5', "out = 5 is not of the right kind"),
        ('[[training]]\nrecipe = "fast"\ndata = 5', "data = 5 is not of the right kind"),
        ('[[training]]\nrecipe = "fast"\ndata = ["a", 5]', "is not of the right kind"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_queue(written(tmp_path, text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_queue_of_make_models_can_be_read() -> None:
    assert [one.recipe for one in read_queue(ROOT / "models.toml")] == ["lean", "best"]
