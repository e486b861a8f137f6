"""MetaSR: a magnification-arbitrary network. Hu et al., CVPR 2019, arXiv:1903.00875; as re-implemented in LIIF's code.

A small network turns the offset of an output pixel and the scale into the weights of a 3×3 filter (Eq. 3 and 4 are
`sample`). Its last layer is linear in its hidden vector h, so filtering can come first: a convolution gives every LR
pixel a (hidden + 1) × 3 matrix (`prepare`), and an output pixel is h times that. The filters are never built.
"""

from __future__ import annotations

from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.errors import UnsupportedScale
from scalewise.geometry.grid import Frame, Query, Size
from scalewise.upsamplers.corners import EXACT, MLP, FilterField, Geometry, Side, in_bands, relu_


class MetaSR(nn.Module):
    """One scale for both axes: the filters know the vertical one only."""

    geometry: Geometry = EXACT
    context = 2  # the edge of an output pixel may lie in the LR pixel before; the filter is 3×3

    def __init__(self, channels: int, hidden: int = 256) -> None:
        super().__init__()
        self.channels = channels
        self.mlp = MLP(3, (hidden,), 27 * channels)

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> FilterField:
        return FilterField.of(self.mlp.last, features, frame, True)

    def sample(self, field: FilterField, query: Query) -> Tensor:
        self.check(query.cell, field.axes)
        return in_bands(query, len(field.filtered), lambda piece: self._render(field, piece))

    def check(self, cell: Tensor, axes: tuple[Side, Side]) -> None:
        """Refuse factors that differ by more than rounding the output's size to whole pixels explains."""
        scale = 1 / cell
        rounding = 0.5 / axes[0].whole + 0.5 / axes[1].whole
        unequal = (scale[:, 0] - scale[:, 1]).abs() > rounding * 1.001
        if bool(unequal.any()):
            rows, columns = scale[unequal][0].tolist()
            raise UnsupportedScale(
                f"metasr upsamples both axes by one factor; got {columns:.4g}x{rows:.4g}: "
                "give one scale, or take another upsampler"
            )

    def _render(self, field: FilterField, query: Query) -> Tensor:
        """RGB (b, *point, 3)."""
        y, down = self.geometry.top_left(query.y, query.cell[:, 0], field.axes[0])
        x, right = self.geometry.top_left(query.x, query.cell[:, 1], field.axes[1])
        layer = self.mlp.first
        weight = layer.weight.float().unbind(1)
        sized = query.cell[:, :1] * weight[2] + layer.bias  # (b, hidden)
        down = down.unsqueeze(-1) * weight[0] + sized.view(len(sized), *[1] * (down.dim() - 1), -1)
        hidden = relu_(down + right.unsqueeze(-1) * weight[1])  # (b, *point, hidden)
        return field.rgb(y, x, hidden)

    def macs(self, size: Size, out: Size) -> Macs:
        units = self.mlp.first.out_features
        return cost.conv2d(self.channels, 3 * (units + 1), 3, *size) + cost.matmul(3, units, 1, out[0] * out[1])
