"""Small networks of architectures that spandrel knows, with seeded weights, as the weight files that people have."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scalewise.foreign.spandrel_network import imported

# Architecture → class, its arguments, the scale.
SMALL: dict[str, tuple[str, dict[str, Any], int]] = {
    "ESRGAN": ("ESRGAN", {"num_filters": 16, "num_blocks": 2, "scale": 4}, 4),
    "Compact": ("Compact", {"num_feat": 16, "num_conv": 4, "upscale": 2}, 2),
    "SPAN": ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 4}, 4),
    "SwinIR": (
        "SwinIR",
        {
            "embed_dim": 24, "depths": [2], "num_heads": [2], "window_size": 8, "mlp_ratio": 2, "upscale": 2,
            "upsampler": "pixelshuffledirect",
        },
        2,
    ),
    "OmniSR": ("OmniSR", {"num_feat": 16, "res_num": 1, "up_scale": 2, "window_size": 8}, 2),
    "DAT": (
        "DAT",
        {"embed_dim": 24, "depth": [2], "num_heads": [2], "split_size": [4, 8], "expansion_factor": 2.0, "upscale": 2},
        2,
    ),
    "HAT": (
        "HAT",
        {
            "embed_dim": 24, "depths": [2], "num_heads": [2], "window_size": 8, "mlp_ratio": 2, "upscale": 2,
            "overlap_ratio": 0.5, "squeeze_factor": 6, "conv_scale": 0.01, "num_feat": 16,
        },
        2,
    ),
    "PLKSR": ("RealPLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2, "kernel_size": 13}, 2),
    "MoSR": ("MoSR", {"dim": 16, "n_block": 2, "upscale": 2}, 2),
    "RCAN": ("RCAN", {"scale": 2, "n_resgroups": 2, "n_resblocks": 2, "n_feats": 16, "reduction": 4}, 2),
    "SAFMN": ("SAFMN", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}, 2),
    "SeemoRe": ("SeemoRe", {"scale": 2, "num_experts": 3, "num_layers": 2, "embedding_dim": 12}, 2),
    "DITN": ("DITN", {"dim": 12, "ITL_blocks": 1, "SAL_blocks": 1, "UFONE_blocks": 1, "upscale": 2}, 2),
    "NAFNet": ("NAFNet", {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}, 1),
    "DnCNN": ("DnCNN", {"in_nc": 1, "out_nc": 1, "nc": 16, "nb": 9, "act_mode": "R"}, 1),
}  # fmt: skip


def build(architecture: str) -> nn.Module:
    """Seeded; biases of outputs are left as they are initialised."""
    imported()
    name, arguments, _ = SMALL[architecture]
    make: Callable[..., nn.Module] = getattr(importlib.import_module(f"spandrel.architectures.{architecture}"), name)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        return make(**arguments).eval()


def write(architecture: str, folder: Path) -> Path:
    """The weight file, in the wrapper that trainers use."""
    path = folder / f"{architecture}.pth"
    torch.save({"params_ema": build(architecture).state_dict()}, path)
    return path
