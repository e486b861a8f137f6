"""How a dB is measured: evaluation protocols as data, the runner, and one prediction under all protocols.

PSNR of one prediction differs by more than 1 dB between the conventions of this field, so every number here names its
`EvalProtocol`. `evaluate` runs any callable over a folder of pictures under one of them.
"""

from scalewise.evaluate.compare import Comparison, compare_protocols
from scalewise.evaluate.conventions import PaperCost, paper_cost
from scalewise.evaluate.estimates import estimate_errors
from scalewise.evaluate.pairs import Pair, find_pairs, load_pair, make_lr
from scalewise.evaluate.patchwise import fuse
from scalewise.evaluate.protocols import DEFAULT, PROTOCOLS, EvalProtocol, Tiles, find_protocol
from scalewise.evaluate.runner import (
    EvalResult,
    ImageResult,
    Skipped,
    evaluate,
    evaluate_alone,
    plain,
    predict,
    score,
)
from scalewise.evaluate.upscalers import (
    Picture,
    Prediction,
    Upscaler,
    bicubic,
    in_steps,
    self_ensemble,
    upscaler_of,
    wrapped,
)

__all__ = [
    "DEFAULT",
    "PROTOCOLS",
    "Comparison",
    "EvalProtocol",
    "EvalResult",
    "ImageResult",
    "Pair",
    "PaperCost",
    "Picture",
    "Prediction",
    "Skipped",
    "Tiles",
    "Upscaler",
    "bicubic",
    "compare_protocols",
    "estimate_errors",
    "evaluate",
    "evaluate_alone",
    "find_pairs",
    "find_protocol",
    "fuse",
    "in_steps",
    "load_pair",
    "make_lr",
    "paper_cost",
    "plain",
    "predict",
    "score",
    "self_ensemble",
    "upscaler_of",
    "wrapped",
]
