"""What the networks of published tables weigh and cost, counted from shapes: neither weights nor data are needed.

`network_of` leads from a row to the recipe that builds its network, `count` gives its parameters and the multiply-adds
of one picture, and `printed_cost` the FLOPs of its column as that paper counts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import nn

from scalewise.checkpoints.build import parameter_count
from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.carn import CARN
from scalewise.encoders.elan import ELAN
from scalewise.encoders.plain_stack import ETDS
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.swinir import SwinIR
from scalewise.errors import InvalidRequest
from scalewise.evaluate.conventions import camixer_flops, classsr_flops, path_flops
from scalewise.evaluate.published import Published
from scalewise.geometry.grid import Frame, Size
from scalewise.layers import DIV2K_MEAN
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import RECIPES, find
from scalewise.training.recipe import Buildable
from scalewise.upsamplers.fixed import CascadeTail, DirectShuffle, PixelShuffle, RectifiedShuffle

OUTPUT: Size = (720, 1280)  # the output that most papers count multiply-adds for
DIV2K_PICTURE: Size = (1390, 2040)  # as many pixels as the mean of DIV2K's validation set, by TADT's MACs of RDN

# Rows that quote networks which scalewise does not have.
NOT_OURS = frozenset(
    {
        "arbsr", "bsrgan", "classsr-rcan", "eqsr", "esrt", "imdn", "lapar-a", "lircan", "n-gram",
        "osrt-light", "pcsr-carn", "pcsr-fsrcnn", "pcsr-srresnet", "real-esrgan", "realsr", "rfdn", "rlfn",
        "srresnet-camixer",
    }
)  # fmt: skip
# A row's method, and its dial where the paper means another network by it → recipe, at the row's scale.
NAMES: Mapping[tuple[str, str], str] = {
    ("adaformer", "local branch"): "adaformer-x4@local-only",
    ("adaformer", "local and global"): "adaformer-x4@no-halting",
    ("adaformer", "halting, local"): "adaformer-x4@local-mask",
    ("adaformer", "uniform exit"): "adaformer-x4@uniform",
    ("adaformer", "random exit"): "adaformer-x4@random",
    ("adaformer", "A-ViT"): "adaformer-x4@a-vit",
    ("adaformer", "APE"): "adaformer-x4@ape-signal",
    ("adaformer", "unshared estimator"): "adaformer-x4@unshared-estimator",
    ("adaformer", ""): "adaformer-x{scale}",
    ("tadt-baseline-liif", "without GSA"): "tadt-baseline-liif@no-gsa",
    ("tadt-baseline-liif", "average pooling"): "tadt-baseline-liif@average-pooling",
    ("tadt-baseline-liif", "random matrix"): "tadt-baseline-liif@random-reduction",
    ("tadt-liif", "beta=0.5"): "tadt-liif@fixed-beta",
    ("tadt-liif", "beta=0.25s"): "tadt-liif@beta-0.25s",
    ("tadt-liif", "without L_beta"): "tadt-liif@no-lbeta",
    ("tadt-liif", "L_beta=beta"): "tadt-liif@lbeta-without-mask",
    ("tadt-liif", "alpha=0,0.25,1"): "tadt-liif@alpha-0-0.25-1",
    ("tadt-liif", "alpha=0,0.25,0.5"): "tadt-liif@alpha-0-0.25-0.5",
    ("tadt-liif", "alpha=0.25,0.5,0.5"): "tadt-liif@alpha-0.25-0.5-0.5",
    ("rdn-ciaosr-attention-only", ""): "rdn-ciaosr@no-nonlocal",
    ("rdn-ciaosr-none", ""): "rdn-ciaosr@mlp-weights",
    ("rdn-ciaosr", "trained on x2"): "rdn-ciaosr@scales-2",
    ("rdn-ciaosr", "trained on x3"): "rdn-ciaosr@scales-3",
    ("rdn-ciaosr", "trained on x4"): "rdn-ciaosr@scales-4",
    ("rdn-ciaosr", "trained on x2 x3 x4"): "rdn-ciaosr@scales-2-3-4",
    ("arm-lut", ""): "arm-srresnet",
    ("swinir-ciaosr-real", ""): "ciaosr-real",
    ("camixer-b-df2k", ""): "camixer-b-x4",
    ("classsr-camixer-original", ""): "classsr-camixer",
}
_BUILT: dict[str, nn.Module] = {}
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Count:
    """Parameters, and multiply-adds of a picture of `OUTPUT` with everything on."""

    parameters: int
    macs: int

    def as_dict(self) -> dict[str, int]:
        return {"parameters": self.parameters, "macs": self.macs}


def network_of(row: Published) -> Buildable | None:
    """What builds the network of a row, None for bicubic. Raises InvalidRequest for one that scalewise has not."""
    method, scale = row.method, int(row.scale)
    if method == "bicubic":
        return None
    if method in NOT_OURS:
        raise InvalidRequest(f"{method} is quoted by the paper and is no network of scalewise")
    if method == "swinir-light":
        light = spec(SwinIR, embed=60, depths=(6,) * 4, heads=(6,) * 4, features=None)
        return Pair(light, tail(DirectShuffle, scale=scale), mean=DIV2K_MEAN, std=ONE)
    if method == "elan-light":
        light = spec(ELAN, channels=60, depth=24, share=1)
        return Pair(light, tail(DirectShuffle, scale=scale), mean=DIV2K_MEAN, std=ONE)
    if method == "etds":
        return Pair(spec(ETDS), tail(RectifiedShuffle, scale=scale), mean=ZERO, std=ONE)
    if method == "carn-m":
        return Pair(spec(CARN), tail(CascadeTail, scales=(scale,)), mean=ZERO, std=ONE)
    if method == "rcan":
        return Pair(spec(RCAN), tail(PixelShuffle, scale=scale), mean=DIV2K_MEAN, std=ONE)
    found = find(_recipe(method, row.dial, scale)).network
    if isinstance(found, Pair) and found.encoder.make is CAMixer:
        return Pair(found.encoder, tail(DirectShuffle, scale=scale), mean=found.mean, std=found.std)
    return found


def _recipe(method: str, dial: str, scale: int) -> str:
    if (method, dial) in NAMES:
        return NAMES[method, dial].format(scale=scale)
    if (method, "") in NAMES:
        return NAMES[method, ""].format(scale=scale)
    if method.endswith("-own-tail"):
        return f"{method.removesuffix('-own-tail')}-x{scale}"
    if method in RECIPES:
        return method
    if re.fullmatch(r"camixer-[smb]", method):
        return f"{method}-x4"  # the tail is set to the row's scale
    return f"{method}-x{scale}"


def count(row: Published) -> Count:
    """Raises InvalidRequest for a network that scalewise has not."""
    network = network_of(row)
    if network is None:
        return Count(0, 0)
    return _count(_key(row))


def _key(row: Published) -> tuple[str, str, float]:
    return row.method, row.dial, row.scale


@lru_cache(maxsize=512)
def _count(key: tuple[str, str, float]) -> Count:
    model, scale = _built(key), key[2]
    low = (round(OUTPUT[0] / scale), round(OUTPUT[1] / scale))
    out = (round(low[0] * scale), round(low[1] * scale))
    return Count(parameter_count(model), _model(model).full_macs(Frame(low), low, (0, 0, *low), out))


def _built(key: tuple[str, str, float]) -> nn.Module:
    """The network of a row without memory for its weights; a network of any scale is built once."""
    method, dial, scale = key
    network = network_of(Published("", method, "", scale, "", "", 0.0, dial, "", "", ""))
    assert network is not None
    described = repr(network)
    if described not in _BUILT:
        with torch.device("meta"):
            _BUILT[described] = network.build().eval()
    return _BUILT[described]


def _model(network: nn.Module) -> Model:
    return cast(Model, network)  # what recipes of networks in tables build


def measured(row: Published) -> float | None:
    """Our value of a row whose metric is parameters or multiply-adds, by the definition of its table; None for other
    metrics. Raises InvalidRequest for a network that scalewise has not."""
    if row.metric not in ("parameters_millions", "gmacs"):
        return None
    model = _built(_key(row)) if row.table != "ciaosr" else _of_table_7(row)
    assert isinstance(model, SuperResolver)
    if row.metric == "gmacs":  # of the encoder
        low = (round(DIV2K_PICTURE[0] / row.scale), round(DIV2K_PICTURE[1] / row.scale))
        return model.encoder.macs(model.padded(low), (row.scale, row.scale)).total / 1e9
    if row.table == "tadt":
        return parameter_count(model.encoder) / 1e6  # type: ignore[arg-type]
    whole = row.table != "ciaosr" or row.method in ("rdn-metasr", "rdn-liif", "rdn-lte")
    return parameter_count(model if whole else model.upsampler) / 1e6  # type: ignore[arg-type]


def apart(row: Published) -> str:
    """What keeps `measured` from being the quantity that is printed; empty where nothing does."""
    routed = row.metric == "gmacs" and row.method == "tadt-liif"
    return "ours with all branches, printed a mean over routes" if routed else ""


def first_weights(row: Published) -> Model:
    """The network of a row before any training. Raises InvalidRequest for bicubic and what scalewise has not."""
    if row.method == "bicubic":
        raise InvalidRequest("bicubic is no network")
    return _model(_real(_key(row)))


def timed_size(row: Published) -> Size:
    """The LR that a row of milliseconds is timed on: CiaoSR's 192×192, else what gives `OUTPUT`."""
    return (192, 192) if row.table == "ciaosr" else (round(OUTPUT[0] / row.scale), round(OUTPUT[1] / row.scale))


def _of_table_7(row: Published) -> nn.Module:
    """CiaoSR's Table 7 calls the encoder RDN and counts Meta-SR, LIIF and LTE with EDSR-baseline, the others alone."""
    return _built((row.method.replace("rdn-", "edsr-"), "", row.scale))


def printed_cost(row: Published) -> tuple[float, float] | None:
    """The number in a row's column of FLOPs and ours as that paper counts, where it does not depend on the picture:
    per patch of 32×32 (ClassSR, ARM, ENAF, CAMixerSR's large pictures) or at 1280×720 (CARN, CAMixerSR's light ones).
    None where nothing is printed, or where it is a mean over pictures."""
    found = re.match(r"([\d.]+)([MG])", row.flops)
    if found is None or row.method in NOT_OURS:
        return None
    printed = float(found[1]) * {"M": 1e6, "G": 1e9}[found[2]]
    if row.method.startswith("camixer-") and row.dial.startswith("gamma="):
        ours = _camixer_cost(row, float(row.dial.removeprefix("gamma=")))
        return printed, ours
    if row.table == "carn":
        return printed, float(count(row).macs)
    if row.method in ("fsrcnn", "carn", "srresnet", "rcan") and row.table in ("classsr", "enaf"):
        return printed, float(_patch_flops(_key(row)))
    if row.dial.startswith("path="):
        model = _real(_key(row))
        assert isinstance(model, PatchwiseModel)
        return printed, float(path_flops(model)[int(row.dial.removeprefix("path="))])
    return None


def _camixer_cost(row: Published, gamma: float) -> float:
    """Table 2: the formula of the code, per 32×32. Table 3: multiply-adds at 1280×720 γ of the windows hard."""
    model = _built((row.method, "", row.scale))
    assert isinstance(model, SuperResolver) and isinstance(model.encoder, CAMixer)
    encoder, scale = model.encoder, int(row.scale)
    if row.protocol == "camixer-large":
        groups = [len(group.blocks) for group in encoder.groups]  # type: ignore[arg-type]
        return float(camixer_flops(encoder.channels, groups, scale, gamma))
    low = (round(OUTPUT[0] / scale), round(OUTPUT[1] / scale))
    size = model.padded(low)
    tail_macs = model.upsampler.macs(size, (size[0] * scale, size[1] * scale))
    return float((encoder.kept_macs(size, encoder.kept(gamma, size)) + tail_macs).total)


@lru_cache(maxsize=8)
def _real(key: tuple[str, str, float]) -> nn.Module:
    """With first weights, for what is seen only while a network runs."""
    network = network_of(Published("", key[0], "", key[2], "", "", 0.0, key[1], "", "", ""))
    assert network is not None
    return network.build().eval()


@lru_cache(maxsize=32)
def _patch_flops(key: tuple[str, str, float]) -> int:
    model = _real(key)
    assert isinstance(model, SuperResolver)
    patch = torch.zeros(1, 3, 32, 32)
    features = lambda: model.upsampler.upscale(model.encoder(patch), patch, int(key[2]))  # type: ignore[operator]  # noqa: E731
    return classsr_flops(features)
