"""The published coordinates and our positions are the same places in other units."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from scalewise.geometry.grid import Frame, axis_positions, rectangle


def published(position: Tensor, n: int) -> Tensor:
    """LR pixels of an axis with n of them → LIIF's [-1, 1] between the outer edges."""
    return (2 * position / n - 1).float()


def test_positions_are_liif_coordinates(shared: Path) -> None:
    folder = shared / "golden/ref_make_coord"
    tensors = load_file(folder / "cases.safetensors")
    for case in json.loads((folder / "meta.json").read_text())["cases"]:
        name = case["id"]
        size = case["shape"] if "shape" in case else tensors[f"{name}.in.img"].shape[-2:]
        h, w = size
        query = rectangle(Frame((7, 9)), (h, w))  # any LR: coordinates do not depend on it
        y, x = published(axis_positions(0, h, 7, h), 7), published(axis_positions(0, w, 9, w), 9)
        torch.testing.assert_close(query.y[0, :, 0], axis_positions(0, h, 7, h).float())
        grid = torch.stack(torch.broadcast_tensors(y[:, None], x[None, :]), -1)
        cell = 2 * query.cell[0] / torch.tensor([7.0, 9.0])
        expected = {"coord": grid.reshape(-1, 2), "coord_grid": grid, "ltep_cell": cell}
        expected |= {"cell": cell.expand(h * w, 2), "itsrn_scale_token": (cell / 2).expand(h * w, 2)}
        shifted = torch.stack([(y[:, None] + 1) / 2 + 0 * x, (x[None, :] + 1) + 0 * y[:, None]], -1)
        expected["coord_range_0_1__0_2"] = shifted.reshape(-1, 2)
        if name == "pixel_samples":
            expected["rgb"] = tensors[f"{name}.in.img"].permute(1, 2, 0).reshape(-1, 3)
        for key, info in case["output_info"].items():
            theirs = tensors[f"{name}.out.{key}"]
            torch.testing.assert_close(expected[key], theirs, atol=info["suggested_atol"], rtol=0, msg=f"{name} {key}")
