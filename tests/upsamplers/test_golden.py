"""Every any-scale upsampler against what the published code computed, from the same weights and points.

`published` is the geometry of parity mode: it must hit every point. Ours is compared where the outcome does not hang
on rounding: not at points on a pixel's centre (LIIF, LTE), nor on a pixel's border (CiaoSR's query).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from upsamplers import golden, literal
from upsamplers.golden import Case, State, mlp, part

from scalewise.errors import UnsupportedScale
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

ROUNDING = 1e-3  # how much a change of the last bit of a coordinate may show in our rule's comparison


def channels(state: State) -> int:
    own = part(state, "encoder.")
    return (own["head.0.bias"] if "head.0.bias" in own else own["SFENet1.bias"]).shape[0]


def widths(own: State) -> list[int]:
    return [value.shape[0] for key, value in own.items() if key.startswith("mlp.") and key.endswith("bias")][:-1]


def liif(state: State, meta: dict) -> nn.Module:
    flags = {key: value for key, value in meta["constructor"]["args"].items() if not key.endswith("_spec")}
    own = mlp(state, "imnet.")
    upsampler = LIIF(channels(state), widths(own), **flags)
    upsampler.load_state_dict(own)
    return upsampler


def metasr(state: State, meta: dict) -> nn.Module:
    upsampler = MetaSR(channels(state))
    upsampler.load_state_dict(mlp(state, "imnet."))
    return upsampler


def lte(state: State, meta: dict) -> nn.Module:
    plus = meta["constructor"]["name"] == "lte-fast"
    own = mlp(state, "" if plus else "imnet.")
    own |= {key: value for key, value in state.items() if key.partition(".")[0] in ("coef", "freq", "phase")}
    if not plus:  # pairs (y, x) → a half for y, a half for x
        own |= {key: torch.cat((own[key][::2], own[key][1::2])) for key in ("freq.weight", "freq.bias")}
    upsampler = LTE(state["coef.weight"].shape[1], len(state["coef.bias"]), widths(own))
    upsampler.load_state_dict(own)
    return upsampler


def itsrn(state: State, meta: dict) -> nn.Module:
    args = meta["constructor"]["args"]
    flags = {"local_ensemble": args["local_ensemble"], "feat_unfold": args["feat_unfold"]}
    own = mlp(state, "imnet.")
    act = args["imnet_spec"]["args"]["act"]
    upsampler = ITSRN(channels(state), widths(own), activation=act, **flags)
    upsampler.load_state_dict(own | mlp(state, "Score.", "score") | mlp(state, "Weight.", "merge"))
    return upsampler


def ciaosr(state: State, meta: dict) -> nn.Module:
    own = mlp(state, "imnet_q.", "query") | mlp(state, "imnet_k.", "key") | mlp(state, "imnet_v.", "value")
    names = {"conv_match_1": "match", "conv_match_2": "match_small", "conv_assembly": "assembly", "down": "down.2"}
    for key, value in part(state, "cs_attn.").items():
        theirs, _, rest = key.partition(".")
        if theirs in names:
            own[f"attention.{names[theirs]}.{rest}"] = value
    mid = meta["constructor"]["encoder"]["mid_channels"]
    non_local = meta["constructor"].get("non_local_attn", True)
    upsampler = CiaoSR(mid, meta["constructor"]["imnet_q"]["hidden_list"], non_local=non_local)
    upsampler.load_state_dict(own)
    return upsampler


def tensors(case: Case, state: State) -> tuple[Tensor, Tensor]:
    """Features and image."""
    if f"{case.name}.in.inp" in case.tensors:
        lr = case.tensor("in", "inp")
        return golden.encode(state, lr), lr
    lr = case.tensor("in", "x")
    encoder = golden.rdn_mmedit if "sfe1.weight" in state else golden.edsr_mmedit
    return encoder(state, lr), lr


FOLDERS = {
    "liif_full": liif,
    "liif_all_off": liif,
    "liif_no_cell_decode": liif,
    "liif_no_feat_unfold": liif,
    "liif_no_local_ensemble": liif,
    "liif_rdn": liif,
    "metasr_liif": metasr,
    "lte_edsr": lte,
    "ltep_edsr": lte,
    "itsrn_edsr": itsrn,
    "itsrn_no_feat_unfold": itsrn,
    "itsrn_no_local_ensemble": itsrn,
    "itsrn_rdn": itsrn,
    "itsrn_sine": itsrn,
    "ciaosr_edsr": ciaosr,
    "ciaosr_edsr_no_nonlocal": ciaosr,
    "ciaosr_rdn": ciaosr,
}


@pytest.mark.parametrize("folder", FOLDERS)
@torch.no_grad()
def test_numbers_are_the_published_ones(shared: Path, folder: str) -> None:
    state, meta, cases = golden.golden(shared / "golden" / folder)
    build = FOLDERS[folder]
    ran = 0
    for case in cases:
        if "query" not in case.meta["kind"]:
            continue
        ran += 1
        features, lr = tensors(case, state)
        names = ("scale", 1.0) if build is itsrn else ("cell", 2.0)
        exact, ours = golden.queries(case, *names)
        upsampler = build(state, meta)
        try:
            difference = golden.largest_difference(upsampler, case, features, lr, ours)
            sensitive = "rounding_sensitive" in case.meta["output_info"]["out"]
            stable = golden.off_borders(ours, difference) if build is ciaosr else case.stable
            assert float(difference[stable if stable is not None else ...].max()) <= (
                ROUNDING if sensitive else case.atol
            ), case.name
        except UnsupportedScale:
            assert case.name.startswith("asym")
        if build is metasr:
            upsampler.check = lambda *_: None  # type: ignore[method-assign]
        difference = golden.largest_difference(upsampler, case, features, lr, exact, golden.PublishedGeometry())
        assert float(difference.max()) <= case.atol, case.name
    assert ran


@pytest.mark.parametrize("folder", FOLDERS)
@torch.no_grad()
def test_the_literal_path_is_the_published_one(shared: Path, folder: str) -> None:
    """So that the benchmark compares with what was published."""
    state, meta, cases = golden.golden(shared / "golden" / folder)
    build = FOLDERS[folder]
    upsampler: Any = build(state, meta)
    for case in cases:
        if "query" not in case.meta["kind"]:
            continue
        features, lr = tensors(case, state)
        coordinates = case.tensor("in", "coord").flatten(1, -2)
        cells = 2 * case.tensor("in", "scale") if build is itsrn else case.tensor("in", "cell")
        cells = cells.unsqueeze(1).expand_as(coordinates) if cells.dim() == 2 else cells
        spelled = literal.lte(upsampler, features) if build is lte else getattr(literal, build.__name__)(upsampler)
        rgb = spelled(features, lr, coordinates, cells)
        expected = case.tensor("out", "out")
        rgb = rgb.transpose(1, 2).reshape(expected.shape) if expected.dim() == 4 else rgb
        difference = (rgb - expected).abs()
        stable = case.stable if case.stable is not None else torch.ones_like(difference, dtype=torch.bool)
        assert float(difference[stable].max()) <= case.atol, case.name


@torch.no_grad()
def test_attention_across_scales_is_the_published_one(shared: Path) -> None:
    state, meta, cases = golden.golden(shared / "golden" / "ciaosr_edsr")
    (case,) = (case for case in cases if case.meta["kind"] == "nonlocal")
    attention = ciaosr(state, meta).attention
    assert isinstance(attention, nn.Module)
    assert float((attention(case.tensor("in", "x")) - case.tensor("out", "out")).abs().max()) <= case.atol
