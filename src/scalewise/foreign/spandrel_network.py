"""Weight files of the architectures that spandrel knows (MIT, github.com/chaiNNer-org/spandrel), as models of ours.

Our own reader reads the file, without running code from it; spandrel gets tensors and builds the network.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scalewise.checkpoints.build import parameter_count
from scalewise.checkpoints.files import Content, leaves, sha256
from scalewise.checkpoints.load import Description, Loaded, check_finite, check_overrides, few, malformed
from scalewise.errors import CheckpointError, MissingDependency, UnknownNetwork
from scalewise.foreign.measure import measured
from scalewise.foreign.torchvision_names import supplied
from scalewise.machine.memory import LiveTensors
from scalewise.models.whole_network import CHANNELS, Needs, WholeNetwork

INSTALL = "pip install einops && pip install --no-deps spandrel"
REFUSED = {
    "FaceSR": "it restores faces, from crops that a face detector makes: scalewise enlarges whole pictures",
    "Inpainting": "it fills in what a mask marks: scalewise enlarges pictures",
}
MAX_PART = 2048  # numbers in keys: no network has as many blocks in a row, and a file may name any
BUILT_BYTES = 8  # memory of a network while it is built over that of its weights, at most
SPARE_BYTES = 512 << 20


class SpandrelNetwork(nn.Module):
    """A network that spandrel built: (1, channels, h, w) in [0, 1] → the same, larger."""

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.network = descriptor.model

    def forward(self, picture: Tensor) -> Tensor:
        """The picture must have a size that the network takes. The output is not clamped, where the descriptor says how
        the network is called."""
        call = getattr(self.descriptor, "_call_fn", None)
        if call is not None:
            return call(self.network, picture)
        return self.descriptor(picture).clone()  # an ordinary tensor, not one of inference mode


def load(content: Content, overrides: Mapping[str, Any]) -> Loaded:
    """The network of a file that was read. Raises MissingDependency without spandrel, CheckpointError for files that
    it does not know, that are damaged, or that do something else than enlarge or restore pictures."""
    path = content.path
    spandrel = imported()
    state = _state(content, spandrel)
    # What old code of theirs makes torch warn of is no concern of who runs it.
    quiet = warnings.catch_warnings(action="ignore")
    with malformed(path), _bounded(path, state), torch.random.fork_rng(devices=[]), quiet:
        try:
            descriptor = spandrel.ModelLoader(device="cpu").load_from_state_dict(state)
        except spandrel.UnsupportedModelError:
            raise UnknownNetwork(f"{path}: spandrel does not know this network ({few(state)})") from None
        except AssertionError as error:
            raise CheckpointError(f"{path}: malformed weights ({_line(error)})") from None
    name = descriptor.architecture.name
    if (reason := REFUSED.get(descriptor.purpose)) is not None:
        raise CheckpointError(f"{path}: a {name} network is not for this: {reason}")
    asked = descriptor.size_requirements
    if descriptor.output_channels not in CHANNELS.get(descriptor.input_channels, ()):
        raise CheckpointError(
            f"{path}: {name} makes {descriptor.output_channels} channels of {descriptor.input_channels}; allowed are "
            "gray to gray, and RGB or RGBA to RGB or RGBA"
        )
    needs = Needs(
        channels=descriptor.input_channels,
        minimum=max(1, asked.minimum),
        multiple=asked.multiple_of,
        square=asked.square,
        bf16=descriptor.supports_bfloat16,
        fp16=descriptor.supports_half,
    )
    network = SpandrelNetwork(descriptor.eval()).requires_grad_(False)
    digest = sha256(path)
    whole = descriptor.tiling is not spandrel.ModelTiling.SUPPORTED
    with malformed(path), warnings.catch_warnings(action="ignore"):
        found = measured(network, descriptor.scale, needs, digest, whole=whole)
    model = WholeNetwork(network, descriptor.scale, needs, found).eval()
    check_overrides(path, overrides, set())
    return Loaded(
        model,
        Description(
            path=path,
            format="read by spandrel",
            network=" ".join([name, *descriptor.tags]),
            builder="spandrel",
            arguments={},
            scales=model.limits.scales,
            parameters=parameter_count(model),
            assumed={},
            settable=(),
            dropped=0,
            lacks="",
            sha256=digest,
            about=about(model, descriptor.purpose) | _notes(content),
        ),
    )


def about(model: WholeNetwork, purpose: str) -> dict[str, str]:
    """What was measured, for `scalewise inspect`."""
    needs, found = model.needs, model.measured
    macs = found.conv_macs + found.matmul_macs
    sides = f"at least {needs.minimum}, multiples of {needs.multiple}{', square' if needs.square else ''}"
    return {
        "purpose": {"SR": "super-resolution", "Restoration": "restoration"}.get(purpose, purpose),
        "channels": {1: "gray", 3: "RGB", 4: "RGBA"}[needs.channels],
        "macs": f"{macs:.3g} per pixel of the input",
        "context": found.words,
        "sides": sides,
        "numbers": ", ".join(["fp32", *["bf16"] * needs.bf16, *["fp16"] * needs.fp16]),
    }


def imported() -> Any:
    """The library. Raises MissingDependency."""
    try:
        with supplied():
            import spandrel
    except ImportError as error:
        raise MissingDependency(f"this weight file needs spandrel ({_line(error)}): {INSTALL}", INSTALL) from None
    return spandrel


def _state(content: Content, spandrel: Any) -> dict[str, Tensor]:
    """The tensors, out of the wrappers that trainers put around them; checked as far as names and values go."""
    with malformed(content.path):
        state = dict(spandrel.canonicalize_state_dict(content.data))
        tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(state):
        held = few(map(str, content.data)) if isinstance(content.data, Mapping) else type(content.data).__name__
        raise CheckpointError(f"{content.path}: no weights of a network (it holds {held})")
    for key, value in tensors.items():
        if any(int(part) > MAX_PART for part in re.findall(r"(?<!\d)\d{4,}(?!\d)", key) if len(part) > 3):
            raise CheckpointError(f"{content.path} was refused: {few([key])} numbers more parts than a network has")
        check_finite(content.path, few([key]), value)
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


class _TooLargeError(Exception):
    """Building a network takes more memory than its weights explain."""


class _Bounded(LiveTensors):
    """Counts the bytes that tensors take, and ends where they are too many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def _count(self, storage: torch.UntypedStorage) -> None:
        super()._count(storage)
        if self.bytes > self.most:
            raise _TooLargeError


@contextmanager
def _bounded(path: Any, state: Mapping[str, Tensor]) -> Iterator[None]:
    """A file whose shapes would make spandrel build something far larger than itself is refused."""
    held = sum(value.nbytes for _, value in leaves(state))
    try:
        with _Bounded(BUILT_BYTES * held + SPARE_BYTES):
            yield
    except _TooLargeError:
        raise CheckpointError(
            f"{path} was refused: the network that it describes is far larger than the file"
        ) from None


def _notes(content: Content) -> dict[str, str]:
    """Licence and author, as far as the file says."""
    known = ("license", "licence", "author", "name", "version", "description", "modelspec.author", "modelspec.license")
    return {key.rpartition(".")[2]: str(value)[:200] for key, value in content.metadata.items() if key.lower() in known}


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
