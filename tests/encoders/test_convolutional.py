"""EDSR, RDN, RCAN, NLSA, FSRCNN, CARN-M, SRResNet: sizes as published, costs as counted, context as measured."""

from __future__ import annotations

import pytest
import torch
from encoders import windowed
from torch import nn

from scalewise.contracts import Encoder, PlainEncoder
from scalewise.encoders.carn import CARN
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.nlsa import NLSA, bucket_count, rotation
from scalewise.encoders.plain_stack import DISP, ECBSR, ETDS, SPAN
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.rlfn import RLFN
from scalewise.encoders.srresnet import SRResNet
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution, DirectShuffle, RectifiedShuffle, ResNetTail

SIZE = (11, 14)
SMALL = {
    "edsr": lambda: EDSR(8, 3),
    "rdn": lambda: RDN(8, 2, layers=3, growth=4),
    "rcan": lambda: RCAN(8, 2, blocks=2, reduction=4),
    "rcan-widened": lambda: RCAN(8, 1, blocks=2, reduction=4, width=6),
    "nlsa": lambda: NLSA(8, 9, chunk=20, hashes=3),
    "nlsa-widened": lambda: NLSA(8, 2, chunk=20, width=6),
    "fsrcnn": lambda: FSRCNN(8, 4, maps=2),
    "carn": lambda: CARN(8, 4),
    "srresnet": lambda: SRResNet(8, 2),
    "disp": lambda: DISP(8, 2, layers=3),
    "ecbsr": lambda: ECBSR(8, 3),
    "ecbsr-luma": lambda: ECBSR(8, 2, colours=1, activation="softplus"),
    "etds": lambda: ETDS(8, 3),
    "span": lambda: SPAN(8, 2),
    "rlfn": lambda: RLFN(8, 2, middle=10, width=4),
}
every_encoder = pytest.mark.parametrize("name", SMALL)


@every_encoder
def test_macs_are_what_torch_counts(name: str) -> None:
    encoder = SMALL[name]()
    assert encoder.macs(SIZE, (2.0, 2.0)).total == windowed.counted_macs(encoder, SIZE)


@every_encoder
def test_fits_the_contract_and_depends_on_nothing_but_the_image(name: str) -> None:
    encoder = SMALL[name]()
    windowed.check_batch_is_one_by_one_and_repeats(encoder, SIZE)
    assert isinstance(encoder, Encoder)


@every_encoder
def test_gradients_reach_every_parameter(name: str) -> None:
    windowed.check_gradients_reach_every_parameter(SMALL[name](), SIZE)


@pytest.mark.parametrize("name", [name for name in SMALL if SMALL[name]().context is not None])
def test_context_is_how_far_a_pixel_is_seen(name: str) -> None:
    encoder = open_rectifiers(SMALL[name]())
    assert windowed.measured_reach(encoder, -1) == encoder.context


def open_rectifiers(encoder: PlainEncoder) -> PlainEncoder:
    """Weights and biases above zero, so that no ReLU hides a path."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.abs_().add_(0.01)
    return encoder


@pytest.mark.parametrize(
    ("modules", "millions"),
    [
        (lambda: [EDSR()], 1_220_416),
        (lambda: [RDN()], 21_973_952),
        (lambda: [RCAN()], 15_295_200),
        (lambda: [RCAN(width=64)], 15_332_128),  # TADT prints 15.33 M
        (lambda: [NLSA()], 39_428_928),
        (lambda: [NLSA(width=64)], 39_576_448),  # TADT prints 39.58 M
        (lambda: [FSRCNN(), Deconvolution(56)], 24_515),
        (lambda: [CARN(), CascadeTail(64, (4,))], 294_171 - 24),  # without the frozen mean shift
        (lambda: [CARN(), CascadeTail(64)], 414_811 - 24),
        (lambda: [SRResNet(), ResNetTail(64)], 1_517_571),
        (lambda: [DISP(), DirectShuffle(32, 4)], 163_792),
        (lambda: [RLFN(), DirectShuffle(52, 4)], 543_740),  # the paper prints 543 K
        (lambda: [ETDS(), RectifiedShuffle(48)], 169_968),
    ],
    ids=[
        "edsr",
        "rdn",
        "rcan",
        "rcan-64",
        "nlsa",
        "nlsa-64",
        "fsrcnn",
        "carn-m",
        "carn-m-multiscale",
        "srresnet",
        "disp",
        "rlfn",
        "etds",
    ],
)
def test_parameter_counts_are_the_published_ones(modules, millions: int) -> None:
    with torch.device("meta"):
        built: list[nn.Module] = modules()
    assert windowed.parameters(*built) == millions


def test_nlsa_attends_everywhere_in_an_image_smaller_than_a_chunk() -> None:
    encoder = NLSA(8, 2, chunk=144).eval()
    assert encoder.macs((5, 7), (2.0, 2.0)).total == windowed.counted_macs(encoder, (5, 7))
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 5, 7)).isfinite().all()
        assert encoder(torch.rand(1, 3, 1, 1)).isfinite().all()


def test_nlsa_takes_given_rotations_and_draws_the_same_ones_every_time() -> None:
    encoder = NLSA(8, 2, chunk=20, hashes=2).eval()
    lr = torch.rand(1, 3, 9, 13)
    given = [torch.randn_like(one) for one in encoder.rotations(lr)]
    state = torch.get_rng_state()
    with torch.no_grad():
        assert not torch.equal(encoder(lr), encoder(lr, given))
        assert torch.equal(encoder(lr), encoder(lr))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(rotation(4, 2, 6, 0), rotation(4, 2, 6, 0))


@pytest.mark.parametrize(("tokens", "buckets"), [(10, 2), (144, 2), (400, 2), (720, 6), (10**6, 128)])
def test_nlsa_buckets_are_even_and_bounded(tokens: int, buckets: int) -> None:
    assert bucket_count(tokens, 144) == buckets
