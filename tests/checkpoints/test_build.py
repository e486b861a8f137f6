"""Networks by name: each name leads to a constructor, and a file of ours opens without the others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scalewise.checkpoints.build import BUILDERS, ENCODERS, UPSAMPLERS, construct
from scalewise.checkpoints.patch_networks import EXITS
from scalewise.errors import CheckpointError

LOADED = "print(*(name for name in sys.modules if name.partition('.')[0] == 'scalewise'))"
MOST_FILES = 45  # of ours that loading a model by name may run


@pytest.mark.parametrize("constructors", [ENCODERS, UPSAMPLERS, BUILDERS, EXITS])
def test_every_name_has_a_constructor(constructors) -> None:
    assert len(constructors) and all(callable(constructor) for constructor in constructors.values())
    assert len(set(constructors.values())) == len(constructors)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(CheckpointError, match="'resnet'; known are adaformer, camixer"):
        construct(ENCODERS, {"name": "resnet", "arguments": {}})


def test_a_model_by_name_runs_few_files() -> None:
    script = f"import sys, scalewise; scalewise.load('fast'); {LOADED}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "scalewise.multiexit.anyscale" in loaded and len(loaded) <= MOST_FILES
    foreign = [name for name in loaded if name.startswith(("scalewise.compat", "scalewise.encoders"))]
    assert not foreign
