"""The wrapper of LIIF, LTE and ITSRN: {"model": {"name", "args", "sd"}, …}; and the bare `sd` of such a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalewise.checkpoints.files import Content
from scalewise.compat.networks import LIIF_NETWORKS
from scalewise.compat.translate import Choices, Translated, translate

TITLE = "LIIF wrapper"
NAMES = ("liif", "metasr", "lte", "lte-fast", "ITNSR", "edsr-baseline", "edsr", "rdn", "rcan", "swinir")


def accepts(content: Content) -> bool:
    data = content.data
    if not isinstance(data, Mapping):
        return False
    model = data.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("sd"), Mapping):
        return model.get("name") in NAMES
    return any(str(key).startswith("encoder.") for key in data)


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    model = content.data.get("model", {"name": "", "args": {}, "sd": content.data})
    return translate(content.path, model["sd"], LIIF_NETWORKS, Choices(overrides, given(model)))


def given(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the wrapper's arguments, or the defaults of the functions they go to, say beyond the shapes."""
    arguments = model.get("args") or {}
    encoder = arguments.get("encoder_spec", model)
    imnet = arguments.get("imnet_spec") or {}
    known = {name: arguments[name] for name in ("local_ensemble", "feat_unfold", "cell_decode") if name in arguments}
    if model.get("name") in ("liif", "ITNSR"):
        known = {"local_ensemble": True, "feat_unfold": True, "cell_decode": True} | known
    scaling = {"edsr-baseline": 1.0, "edsr": 0.1}  # defaults of the functions of these names
    encoder_arguments = encoder.get("args") or {}
    if encoder.get("name") in scaling:
        known["res_scale"] = float(encoder_arguments.get("res_scale", scaling[encoder["name"]]))
    if model.get("name") == "ITNSR":
        known["activation"] = (imnet.get("args") or {}).get("act", "sine")
    return known
