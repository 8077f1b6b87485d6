import cv2
import numpy as np
import pytest
import torch
from tiny_models import tiny_config
from torch import nn

from anchor_heads.analysis.benchmark.locations import blobs, given_locations, mean_blob_cells
from anchor_heads.analysis.benchmark.workload import build_timed_model, make_image


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [(100, 152), (13, 19), (7, 1)])
def test_blobs_have_the_share_of_cells(size, share):
    wanted = blobs(size, share)
    assert wanted.shape == size and wanted.dtype == torch.bool
    assert wanted.sum() == max(1, round(share * size[0] * size[1]))
    assert wanted.equal(blobs(size, share))


def test_blobs_are_compact():
    wanted = blobs((100, 152), 0.02)
    assert not wanted.equal(blobs((100, 152), 0.02, seed=1))
    assert 8 < mean_blob_cells([wanted]) < 12
    # A 3x3 square lies in the surroundings of 25 cells, nine single cells in those of 81.
    read = cv2.dilate(wanted.numpy().astype(np.uint8), np.ones((3, 3), np.uint8)).sum()
    assert read < 3 * wanted.sum()


def test_mean_blob_cells_counts_connected_parts():
    first, second = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
    first[0, 0] = first[1, 1] = first[3, 3] = True  # the first two touch
    second[0, :2] = True
    assert mean_blob_cells([first, second]) == pytest.approx(5 / 3)


def test_given_locations_pass_and_leave(tmp_path):
    cfg = tiny_config(tmp_path / "guided", "GuidedAnchorRetinaNet")
    model = build_timed_model(cfg, make_image(64, 96))
    branch = model.head.conv_loc
    with given_locations(model, 0.1) as locations:
        for size in [(20, 30), (10, 15), (20, 30)]:
            probability = model.head.conv_loc(torch.randn(2, 16, *size)).sigmoid()
            assert probability.shape == (2, 1, *size)
            expected = blobs(size, 0.1).float().expand(2, 1, -1, -1)
            assert torch.allclose(probability, expected, atol=1e-4)
        assert set(locations) == {(20, 30), (10, 15)}
    assert model.head.conv_loc is branch
    with pytest.raises(RuntimeError, match="stop"), given_locations(model, 0.1):
        raise RuntimeError("stop")
    assert model.head.conv_loc is branch


def test_models_keep_their_own_locations_where_none_are_given(tmp_path):
    cfg = tiny_config(tmp_path / "guided", "GuidedAnchorRetinaNet")
    model = build_timed_model(cfg, make_image(64, 96))
    with given_locations(model, None) as locations:
        assert locations == {} and isinstance(model.head.conv_loc, nn.Conv2d)
    plain = build_timed_model(tiny_config(tmp_path / "plain", "RetinaNet"), make_image(64, 96))
    with given_locations(plain, 0.1) as locations:
        assert locations == {}
