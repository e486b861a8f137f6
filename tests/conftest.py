"""What every test shares: seeds, two threads, one hypothesis profile, and the folder of data beside the clone."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(2)
settings.register_profile("scalewise", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("scalewise")


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden vectors, published weights and data: SCALEWISE_SHARED, or `shared` beside the clone."""
    folder = Path(os.environ.get("SCALEWISE_SHARED") or ROOT.parent / "shared")
    if folder.is_dir():
        return folder
    reason = f"no folder {folder}; set SCALEWISE_SHARED to the folder that holds golden/, weights/ and data/"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
