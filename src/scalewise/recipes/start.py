"""First weights with which a tiny network starts as bilinear interpolation, so that minutes take it past bicubic.

The first three channels carry the pixels to the end, and what would be added to them starts at zero. The papers' sizes
train from usual first weights; this is ours.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.camixer import MixerTrunk
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.encoders.carn import CARN
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.elan import ELAN, GroupAttention, LocalFeatures
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.tadt import MultiScaleTransformer
from scalewise.encoders.transformer_trunk import TransformerTrunk
from scalewise.layers import ResidualBlock
from scalewise.models.super_resolver import SuperResolver
from scalewise.multiexit.ape import APE
from scalewise.multiexit.enaf import CARNExits, DeconvolutionHead, FSRCNNExits
from scalewise.multiexit.paths import FixedNetwork
from scalewise.routing.branch import TaskController
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.corners import MLP
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution, DirectShuffle, PixelShuffle, ResNetTail
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

LIFT = 0.5  # networks take a mean of less from the pixels


@torch.no_grad()
def tadt_liif(model: nn.Module) -> None:
    """A TADT, or its Baseline, with LIIF."""
    assert isinstance(model, SuperResolver)
    trunk, tail = model.encoder, model.upsampler
    assert isinstance(trunk, MultiScaleTransformer) and isinstance(tail, LIIF)
    wake(trunk.groups)
    for conv in (trunk.head, trunk.conv_features):
        carry(conv)
    _zero(trunk.body_end)
    _liif_reads(tail, torch.eye(3, trunk.channels))


def tadt_controller(model: nn.Module) -> None:
    """TADT's controller at β = .75 for all scales, not .98: hundreds of steps are too few to come down from there."""
    controller = model.get_submodule("encoder.controller")
    assert isinstance(controller, TaskController)
    last = controller.scale[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, 1.1)


@torch.no_grad()
def adaformer_shuffle(model: nn.Module) -> None:
    """An AdaFormer with pixel shuffles by 2: at ×2 bilinear, at ×4 twice so."""
    assert isinstance(model, SuperResolver)
    trunk, tail = model.encoder, model.upsampler
    assert isinstance(trunk, AdaFormer) and isinstance(tail, PixelShuffle) and set(tail.steps) == {2}
    nn.init.orthogonal_(trunk.embed.weight, gain=2.0)  # the estimator's tanh bends only for features of some size
    _zero(trunk.unembed)
    for block in (*trunk.encoder, *trunk.decoder):
        assert isinstance(block, ResidualBlock)
        _zero(block.conv2)
    doubles(trunk.head, tail)
    tail.convs[0].weight[:12] /= 2  # type: ignore[union-attr, operator]  # the trunk adds its shallow features


@torch.no_grad()
def camixer_shuffle(model: nn.Module) -> None:
    """A CAMixerSR, or the one for 360°, with a direct pixel shuffle: only the shallow features reach the tail.

    Queries and keys start as half the features: pixels attend to what is like them, not to all of a window alike, which
    would blur its values."""
    assert isinstance(model, SuperResolver)
    trunk, tail = model.encoder, model.upsampler
    assert isinstance(trunk, MixerTrunk) and isinstance(tail, DirectShuffle)
    carry(trunk.head)
    _zero(trunk.conv_after_body)  # type: ignore[arg-type]
    for block in trunk.blocks:
        for layer in (block.mixer.query, block.mixer.key):
            nn.init.eye_(layer.weight).mul_(0.5)
            nn.init.zeros_(layer.bias)
    if isinstance(trunk, CAMixerODI):
        nn.init.zeros_(trunk.tail.conv.bias)  # type: ignore[arg-type]
    (scale,) = tail.scales
    _shuffled(tail.conv, scale)


def carn(model: nn.Module) -> None:
    """A CARN with its own tail for a power of two."""
    assert isinstance(model, SuperResolver)
    _through_cascades(model.encoder, model.upsampler)


@torch.no_grad()
def carn_exits(model: nn.Module) -> None:
    """ENAF on CARN: the pixels go through the trunk to every exit."""
    network = model.get_submodule("network")
    assert isinstance(network, CARNExits)
    _through_cascades(network.backbone.encoder, network.backbone.tail)
    for head in network.heads:
        first, _, _, second, _, _, last = head  # type: ignore[misc]
        _doubled([first, second], last)
        last.bias[:3] -= LIFT


@torch.no_grad()
def _through_cascades(trunk: object, tail: object) -> None:
    """Fusions pass what came in, and nothing of the units; everything is a ReLU's, so pixels go LIFT above zero."""
    assert isinstance(trunk, CARN) and isinstance(tail, CascadeTail)
    carry(trunk.entry)
    trunk.entry.bias[:3] += LIFT  # type: ignore[index]
    for cascade in (trunk, *trunk.blocks):
        for fusion in cascade.fusions:  # type: ignore[union-attr]
            fusion.weight[:3], fusion.bias[:3] = 0, 0
            fusion.weight[range(3), range(3)] = 1
    (scale,) = tail.scales
    _doubled(tail.stages[str(scale)], tail.last)  # type: ignore[arg-type]
    tail.last.bias[:3] -= LIFT  # type: ignore[index]


@torch.no_grad()
def fsrcnn_exits(model: nn.Module) -> None:
    """ENAF on FSRCNN: the pixels go through all layers to every exit."""
    network = model.get_submodule("network")
    assert isinstance(network, FSRCNNExits)
    fsrcnn(network.backbone)
    for head in network.heads:
        assert isinstance(head, DeconvolutionHead)
        carry(head[0])  # type: ignore[arg-type]
        _deconvolved(head[2])  # type: ignore[arg-type]


def psnr_estimator(model: nn.Module) -> None:
    """ENAF's estimator expects 30 dB of every path: hundreds of steps are few to come there from 0."""
    last = model.get_submodule("router.estimator.last")
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, -30.0)


def fsrcnn_arm(model: nn.Module) -> None:
    """ARM on FSRCNN: every width holds the first channels, so all start as bilinear interpolation."""
    network = model.get_submodule("network.network")
    assert isinstance(network, FixedNetwork)
    fsrcnn(network)


def fsrcnn_classes(model: nn.Module) -> None:
    """ClassSR on FSRCNN."""
    networks = model.get_submodule("network.networks")
    assert isinstance(networks, nn.ModuleList)
    for network in networks:
        assert isinstance(network, FixedNetwork)
        fsrcnn(network)


def fsrcnn_own(model: nn.Module) -> None:
    """An FSRCNN with its own tail."""
    assert isinstance(model, SuperResolver)
    _through_fsrcnn(model.encoder, model.upsampler)


def fsrcnn(network: FixedNetwork) -> None:
    """An FSRCNN that patches go through."""
    _through_fsrcnn(network.encoder, network.tail)


@torch.no_grad()
def _through_fsrcnn(trunk: object, tail: object) -> None:
    """The first three channels carry the pixels, which are positive, so PReLU leaves them."""
    assert isinstance(trunk, FSRCNN) and isinstance(tail, Deconvolution)
    for conv in (trunk.extract[0], trunk.shrink[0], *trunk.maps, trunk.expand[0]):
        carry(conv)  # type: ignore[arg-type]
    _deconvolved(tail.deconv)


@torch.no_grad()
def ape(model: nn.Module) -> None:
    """APE at a power of two: every exit adds nothing to the shallow features, which are enlarged by two at a time."""
    network = model.get_submodule("network")
    assert isinstance(network, APE)
    _zero(network.trunk.body_end)
    doubles(network.trunk.head, network.tail)


def doubles(head: nn.Conv2d, tail: PixelShuffle) -> None:
    """The pixels go from a network's first convolution to its last, enlarged by two at a time."""
    carry(head)
    _doubled(tail.convs, tail.last)  # type: ignore[arg-type]


def _doubled(convs: Iterable[nn.Conv2d], last: nn.Conv2d) -> None:
    """The first three channels, enlarged by two at each of `convs`, are what comes out of `last`."""
    for conv in convs:
        _carried_up(conv)
    last.weight.zero_()
    carry(last)


def _carried_up(conv: nn.Conv2d) -> None:
    """Before a pixel shuffle by 2: the first three channels, enlarged bilinearly; in a group that has all three."""
    assert conv.bias is not None
    taps = _bilinear(2)
    phases = torch.einsum("iy,jx->ijyx", taps, taps).flatten(0, 1)
    conv.weight[:12], conv.bias[:12] = 0, 0
    assert conv.in_channels >= 3 * conv.groups and conv.out_channels >= 12 * conv.groups
    for colour in range(3):
        conv.weight[4 * colour : 4 * colour + 4, colour] = phases


def _deconvolved(conv: nn.ConvTranspose2d) -> None:
    """Bilinear interpolation of the first three channels; the others begin with nothing."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    (stride, _), (padding, _) = conv.stride, conv.padding
    assert isinstance(padding, int)
    # tap k of input pixel 0 is output pixel k - padding
    away = ((torch.arange(conv.kernel_size[0]) - padding + 0.5) / stride - 0.5).abs()
    line = (1 - away).clamp(min=0)
    for colour in range(3):
        conv.weight[colour, colour] = torch.outer(line, line)


def _shuffled(conv: nn.Conv2d, scale: int) -> None:
    """The pixels of the first three channels, enlarged bilinearly once they are shuffled."""
    _zero(conv)
    taps = _bilinear(scale)
    phases = torch.einsum("iy,jx->ijyx", taps, taps).flatten(0, 1)
    for colour in range(3):
        conv.weight[scale**2 * colour : scale**2 * (colour + 1), colour] = phases


def _bilinear(scale: int) -> Tensor:
    """(scale, 3): the weights of pixels i - 1, i, i + 1 for the output pixels of pixel i, along an axis."""
    place = (torch.arange(scale) + 0.5) / scale - 0.5
    return torch.stack([(-place).clamp(min=0), 1 - place.abs(), place.clamp(min=0)], 1)


@torch.no_grad()
def reading_pixels(model: nn.Module) -> None:
    """Any encoder with an any-scale upsampler: the upsampler starts by reading the pixels from the encoder's features.

    CiaoSR and LTE (and SRResNet's tail) add to the bilinear image, which is left alone at first; the others
    start near it. Also EDSR with its own pixel shuffles by 2."""
    assert isinstance(model, SuperResolver)
    trunk, tail = model.encoder, model.upsampler
    if isinstance(tail, ResNetTail):
        return _zero(tail.last)
    if isinstance(tail, PixelShuffle):
        assert isinstance(trunk, EDSR)
        _zero(trunk.body_end)
        return doubles(trunk.head, tail)
    assert isinstance(trunk, EDSR | RDN | RCAN | NLSA | TransformerTrunk | ELAN)
    shallow_only(trunk)
    if isinstance(tail, CiaoSR):
        _zero(tail.query.last)
        nn.init.ones_(tail.value.last.bias)  # what features are multiplied by: at first nearly nothing would pass
    elif isinstance(tail, LTE):
        _zero(tail.mlp.last)
    elif isinstance(tail, LIIF):
        _liif_reads(tail, pixels_in(trunk))
    elif isinstance(tail, MetaSR):
        edge, cell = torch.rand(4096, 2), torch.rand(4096, 1)
        _filters_interpolate(tail.mlp, torch.cat((edge, cell), 1), edge + cell / 2 - 0.5, pixels_in(trunk))
    elif isinstance(tail, ITSRN):
        offset, cell = 2 * torch.rand(4096, 2) - 1, torch.rand(4096, 2)
        _filters_interpolate(tail.mlp, torch.cat((2 * offset, cell), 1), offset, pixels_in(trunk))
        _zero(tail.score.last)
        mean_of_four(tail.merge)


def shallow_only(trunk: EDSR | RDN | RCAN | NLSA | TransformerTrunk | ELAN) -> None:
    """What the body adds to the shallow features starts at zero."""
    if isinstance(trunk, ELAN):
        for module in trunk.body.modules():
            if isinstance(module, LocalFeatures):
                _zero(module.conv2.conv)
            elif isinstance(module, GroupAttention):
                _zero(module.project_out)
    elif isinstance(trunk, TransformerTrunk):
        wake(trunk.groups)
        _zero(trunk.conv_after_body)  # type: ignore[arg-type]
        carry(trunk.conv_first)
        if trunk.conv_features is not None:  # a LeakyReLU follows, which passes one of each pair
            carry(trunk.conv_features)
            trunk.conv_features.weight[3:6], trunk.conv_features.bias[3:6] = -trunk.conv_features.weight[:3], 0  # type: ignore[index]
    else:
        _zero(trunk.body_end)


def wake(groups: nn.Module) -> None:
    """Swin's 0.02 is for wide networks: at 32 channels attention would never wake."""
    for module in groups.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


def pixels_in(encoder: nn.Module) -> Tensor:
    """(3, channels): the linear map from an encoder's features to its input that fits noise best."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 8, 8, generator=generator)
    smooth = F.interpolate(coarse, (32, 32), mode="bicubic", align_corners=False)
    lr = (2 * smooth - 1 + 0.1 * torch.randn(8, 3, 32, 32, generator=generator)).clamp(-1, 1)
    features, wanted = (x.transpose(0, 1).flatten(1).T.double() for x in (encoder(lr), lr))
    return torch.linalg.lstsq(features, wanted, driver="gelsd").solution.T.float()


def mean_of_four(merge: MLP) -> None:
    """GELU(x) - GELU(-x) is x, so two hidden units carry the mean."""
    first, last = merge.linears
    first.weight[:2], first.bias[:2] = torch.tensor([[0.25], [-0.25]]), 0
    _zero(last)
    last.weight[:, :2] = torch.tensor([1.0, -1.0])


def _liif_reads(tail: LIIF, read: Tensor) -> None:
    """LIIF's answer is `read` (3, channels) of the nearest feature: its ReLUs see it with both signs."""
    first, *between, last = tail.mlp.linears
    taps = 9 if tail.feat_unfold else 1
    first.weight[:6], first.bias[:6] = 0, 0
    first.weight[:6, taps // 2 : tail.features : taps] = torch.cat((read, -read))
    for layer in between:
        layer.weight[:6], layer.bias[:6] = torch.eye(6, layer.in_features), 0
    last.weight.zero_()
    last.weight[:, :6], last.bias[:] = torch.cat((torch.eye(3), -torch.eye(3)), 1), 0


def _filters_interpolate(network: MLP, asked: Tensor, offset: Tensor, read: Tensor) -> None:
    """A network from a point to its 3×3 filter starts as the filters of linear interpolation, as well as its last layer
    can fit them: `asked` (n, inputs) are points, `offset` (n, 2) LR pixels from the middle, `read` (3, channels)."""
    line = torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], -1)  # (n, 2, 3)
    wanted = torch.einsum("ni,nj->nij", line[:, 0], line[:, 1]).flatten(1)
    hidden = network.hidden_after_first(network.first(asked))
    design = torch.cat((hidden, torch.ones(len(hidden), 1)), 1)
    fit = torch.linalg.lstsq(design.double(), wanted.double()).solution.float()
    weight, bias = network.last.weight, network.last.bias
    weight.copy_(torch.einsum("rc,ut->ctru", read, fit[:-1]).flatten(0, 2))
    bias.copy_(torch.einsum("rc,t->ctr", read, fit[-1]).flatten())


def carry(conv: nn.Conv2d) -> None:
    """The first three outputs are the first three inputs."""
    assert conv.bias is not None
    conv.weight[:3], conv.bias[:3] = 0, 0
    centre = conv.kernel_size[0] // 2
    for colour in range(3):
        conv.weight[colour, colour, centre, centre] = 1


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
