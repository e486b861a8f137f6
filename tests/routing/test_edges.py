"""The edge score equals OpenCV's, and is one number per picture of a batch."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scalewise.routing import edges


def _golden(shared: Path) -> tuple[dict[str, dict], dict[str, Tensor]]:
    folder = shared / "golden" / "ref_laplacian_edge"
    cases = json.loads((folder / "meta.json").read_text())["cases"]
    return {case["id"]: case for case in cases}, load_file(folder / "cases.safetensors")


def test_edge_score_equals_opencv(shared: Path) -> None:
    cases, tensors = _golden(shared)
    for case in cases:
        if case == "float_chain":
            continue
        levels = tensors[f"{case}.in.rgb_u8"].permute(2, 0, 1)
        assert torch.equal(edges.gray(levels).to(torch.uint8), tensors[f"{case}.out.gray"]), case
        assert torch.equal(edges.edge_map(levels).to(torch.uint8), tensors[f"{case}.out.edge_map_rgb_input"]), case
        atol = cases[case]["output_info"]["score_rgb_input"]["suggested_atol"]
        score = edges.edge_score(levels / 255)
        assert float(score) == pytest.approx(float(tensors[f"{case}.out.score_rgb_input"]), abs=atol), case
    image = tensors["float_chain.in.rgb_float"]
    for key, truncate in (("enaf_score", True), ("arm_score", False)):
        theirs = float(tensors[f"float_chain.out.{key}"])
        assert float(edges.edge_score(image, truncate=truncate)) == pytest.approx(theirs, abs=0.002)


def test_edge_scores_of_a_batch_are_those_of_its_members() -> None:
    batch = torch.rand(2, 3, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    scores = edges.edge_score(batch)
    assert scores.shape == (2, 3)
    assert float(scores[1, 2]) == float(edges.edge_score(batch[1, 2]))
