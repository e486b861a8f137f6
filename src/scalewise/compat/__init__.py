"""Published checkpoints → our networks: `load`, `describe`, `convert`. One file per checkpoint format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scalewise.checkpoints import native
from scalewise.checkpoints.build import BUILDERS, parameter_count
from scalewise.checkpoints.files import Content, sha256
from scalewise.checkpoints.files import read as read_file
from scalewise.checkpoints.load import (
    Description,
    Loaded,
    check_overrides,
    few,
    fill,
    load_native,
    malformed,
    scales_of,
)
from scalewise.compat import adaformer, bare, basicsr, ecbsr, elan, liif, mmediting, multipath, pcsr
from scalewise.compat.official import OFFICIAL_BUILDERS
from scalewise.compat.translate import Translated
from scalewise.errors import InvalidRequest, UnknownNetwork

# The first that accepts a file reads it.
FORMATS = (adaformer, multipath, pcsr, liif, ecbsr, basicsr, elan, mmediting, bare)


def load(path: str | os.PathLike[str], *, parity: bool = False, **overrides: Any) -> Loaded:
    """The network of a weight file, on the CPU, in eval mode.

    `parity` gives the published behaviour where ours differs (docs/quirks.md). `overrides` set what the file leaves
    open (`res_scale=1`); `describe` lists it. Raises CheckpointError for files that are damaged, hostile or unknown.
    """
    content = read_file(path)
    return load_native(content, overrides) if native.accepts(content) else load_content(content, overrides, parity)


def load_content(content: Content, overrides: Mapping[str, Any], parity: bool = False) -> Loaded:
    """The network of a published file that was read; see `load`."""
    translated, form = _translate(content, overrides)
    build = (OFFICIAL_BUILDERS if parity else BUILDERS)[translated.builder]
    arguments = dict(translated.arguments) or translated.design.as_dict()
    model = fill(content.path, partial(build, **arguments), translated.tensors)
    lacks = ""
    if translated.builder == "super_resolver" and translated.design.upsampler is None:
        name, channels = translated.design.encoder.name, model.channels
        lacks = f"an upsampler: it holds the encoder {name} ({channels} channels) alone; train or add one"
    return Loaded(
        model,
        Description(
            path=content.path,
            format=form,
            network=translated.title,
            builder=translated.builder,
            arguments=arguments,
            scales=scales_of(model),
            parameters=parameter_count(model),
            assumed=translated.choices.assumed,
            settable=tuple(sorted(translated.choices.asked)),
            dropped=len(translated.dropped),
            lacks=lacks,
            sha256=sha256(content.path),
            about={},
        ),
    )


def describe(path: str | os.PathLike[str]) -> Description:
    """What a weight file is; loads it, so that what is said holds."""
    return load(path).description


def convert(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False, **overrides: Any
) -> Description:
    """Write a self-describing safetensors file that loads to the same pixels; returns its description."""
    loaded = load(path, **overrides)
    it = loaded.description
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InvalidRequest(f"{out}: converted files are safetensors; name it {out.stem}.safetensors")
    about = {
        "network": it.network,
        "source": it.path.name,
        "source_format": it.format,
        "source_sha256": it.sha256,
        "assumed": dict(it.assumed),
    }
    native.write(out, loaded.model.state_dict(), it.builder, it.arguments, about | dict(it.about), overwrite=overwrite)
    return describe(out)


def _translate(content: Content, overrides: Mapping[str, Any]) -> tuple[Translated, str]:
    form = next((one for one in FORMATS if one.accepts(content)), None)
    if form is None:
        keys = few(map(str, content.data)) if isinstance(content.data, Mapping) else type(content.data).__name__
        known = ", ".join(one.TITLE for one in FORMATS)
        raise UnknownNetwork(f"{content.path}: no weights in a known wrapper (it holds {keys}); known are {known}")
    with malformed(content.path):
        translated = form.read(content, overrides)
    check_overrides(content.path, overrides, translated.choices.asked, translated.choices.revealed)
    return translated, form.TITLE
