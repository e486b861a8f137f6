"""From what a user asks for to what a model does: Budget and Effort."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, SupportsFloat

from scalewise.errors import BudgetInfeasible, shown

DIALS = ("eta", "k", "gamma", "epsilon", "beta", "lambda", "threshold", "path")


@dataclass(frozen=True)
class Budget:
    """What a user asks for: a share of the full model's MACs in (0, 1], MACs, seconds, or the paper's own `dial`.

    Seconds are those of one picture, from opening it to the finished file (docs/budgets.md); `execution/deadline.py`
    turns them into a share.

    The dials are those that published tables are printed in: `eta` of ENAF, `k` of ARM, `gamma` of CAMixerSR, `epsilon`
    of AdaFormer, `beta` of TADT, `lambda` of ClassSR (0: its argmax), `threshold` of APE; and `path`, the one that all
    patches take.
    """

    kind: Literal["fraction", "macs", "seconds", "native"]
    value: float
    dial: str = ""

    @classmethod
    def full(cls) -> Budget:
        return cls("fraction", 1.0)

    @classmethod
    def fraction(cls, value: float) -> Budget:
        if not (math.isfinite(value) and 0 < value <= 1):
            meant = f": write {value:g}% or, in seconds, {value:g}s" if 1 < value <= 100 else ""
            raise BudgetInfeasible(f"budget {value:g} is out of range: a share is above 0 and at most 1 (100%){meant}")
        return cls("fraction", value)

    @classmethod
    def macs(cls, value: float) -> Budget:
        if not (math.isfinite(value) and value > 0):
            raise BudgetInfeasible(f"budget of {value:g} MACs is out of range: it must be above 0")
        return cls("macs", value)

    @classmethod
    def seconds(cls, value: float) -> Budget:
        if not (math.isfinite(value) and value > 0):
            raise BudgetInfeasible(f"budget of {value:g} seconds is out of range: it must be above 0")
        return cls("seconds", value)

    @classmethod
    def native(cls, dial: str, value: float) -> Budget:
        if dial not in DIALS or not math.isfinite(value):
            raise BudgetInfeasible(f"native dial {dial}={value:g}: dials are {', '.join(DIALS)}, with a number")
        return cls("native", value, dial)

    @classmethod
    def parse(cls, text: str | float | Budget | None) -> Budget:
        """`50%`, `0.5`, `2e12macs`, `2s`, `1500ms`, `eta=0.5`; None is the full model. Raises BudgetInfeasible."""
        if text is None:
            return cls.full()
        if isinstance(text, Budget):
            return text
        if isinstance(text, bool) or not isinstance(text, str | SupportsFloat):
            raise BudgetInfeasible(f"budget {shown(text)} is not a budget: write 50%, 0.5, 2e12macs or 2s")
        named = re.fullmatch(r"\s*([a-z]+)\s*=\s*([-+0-9.eE]+)\s*", str(text))
        if named and named[1] in DIALS:
            try:
                return cls.native(named[1], float(named[2]))
            except ValueError:
                raise BudgetInfeasible(f"native dial {shown(text)} is not a number") from None
        match = re.fullmatch(r"\s*([-+0-9.eE]+|nan|[-+]?inf)\s*(%|macs|s|ms)?\s*", str(text))
        try:
            value, unit = float(match[1]), match[2]  # type: ignore[index]
        except (TypeError, ValueError):
            raise BudgetInfeasible(f"budget {shown(text)} is not a budget: write 50%, 0.5, 2e12macs or 2s") from None
        if unit == "macs":
            return cls.macs(value)
        if unit in ("s", "ms"):
            return cls.seconds(value / 1000 if unit == "ms" else value)
        if unit == "%" and not 0 < value <= 100:
            raise BudgetInfeasible(f"budget {value:g}% is out of range: a share is above 0 and at most 100%")
        return cls.fraction(value / 100 if unit == "%" else value)

    def allowed(self, full: int) -> float:
        """The MACs that this budget grants a model that costs `full` with everything on."""
        if self.kind == "seconds":  # `execution/deadline.py` turns them into a share before a model is asked
            raise BudgetInfeasible(f"budget {self.value:g} s: seconds are for upscale; give a share or MACs here")
        if self.kind == "native":
            return float(full)
        return self.value * full if self.kind == "fraction" else min(self.value, float(full))

    def dial_of(self, *own: str) -> float | None:
        """The value of the native dial, None without one. Raises BudgetInfeasible if it is not one of `own`."""
        if self.kind != "native":
            return None
        if self.dial not in own:
            has = f"has {', '.join(own)}" if own else "has no native dial"
            raise BudgetInfeasible(f"this model does not turn by {self.dial!r}: it {has}; use a budget like 50%")
        return self.value


@dataclass(frozen=True)
class Effort:
    """What a budget means for one model.

    `share` of the full model's MACs was granted, which the report says. Models that decide layer by layer read `keep`,
    the share of units that go on in each, or `native`, the paper's own dial.
    """

    share: float = 1.0
    keep: float = 1.0
    native: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {"share": self.share, "keep": self.keep, "native": dict(self.native)}


def format_budget(budget: Budget) -> str:
    if budget.kind == "seconds":
        return f"{budget.value:g} s"
    if budget.kind == "native":
        return f"{budget.dial}={budget.value:g}"
    return f"{budget.value:.4g} MACs" if budget.kind == "macs" else f"{budget.value:.1%}"
