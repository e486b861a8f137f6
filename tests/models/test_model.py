"""What all models share: the error below the floor names amounts that can be asked for."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from scalewise.budget.budget import Budget
from scalewise.models.model import below_floor


@given(full=st.integers(1, 10**15), share=st.floats(0, 1))
def test_the_floor_that_is_named_can_be_asked_for(full: int, share: float) -> None:
    macs = round(full * share)
    error = below_floor(Budget.fraction(1e-9), macs, full)
    named = re.search(r"this image, ([\d.]+%) \(([\d.e+]+) MACs\)", str(error))
    assert named is not None and error.floor == macs / full
    if macs:
        assert Budget.parse(named[1]).allowed(full) >= macs
        assert float(named[2]) >= macs
