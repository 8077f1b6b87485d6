import pytest
import torch
import torch.nn.functional as F

from anchor_heads.layers import flatten_hw, neighborhood_3x3, rows, rows_at, sparse_conv3x3
from anchor_heads.layers.sparse_conv import linear


def test_rows_are_locations_of_the_batch_by_rows():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(rows(x)[20 + 2 * 5 + 1], x[1, :, 2, 1])
    assert torch.equal(flatten_hw(x)[1, 2 * 5 + 1], x[1, :, 2, 1])
    locations = torch.tensor([0, 7, 31])
    assert torch.equal(rows_at(x, locations), rows(x)[locations])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_rows", [0, 1, 7])
def test_linear_equals_torchs_in_values_and_gradients(num_rows, dtype):
    leaves = [torch.randn(*size, dtype=dtype) for size in ((num_rows, 5), (3, 5), (3,))]
    leaves = [x.requires_grad_() for x in leaves]
    weights = torch.randn(num_rows, 3, dtype=dtype)
    ours, theirs = linear(*leaves), F.linear(*leaves)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad((x * weights).sum(), leaves) for x in (ours, theirs))
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(linear(*leaves[:2]), F.linear(*leaves[:2]))


def test_neighborhood_of_a_corner_and_an_inner_cell():
    read, neighbours = neighborhood_3x3(torch.tensor([0, 12 + 5]), (2, 3, 4))
    assert read.tolist() == [0, 1, 4, 5, *range(12, 15), *range(16, 19), *range(20, 23)]
    assert neighbours[0].tolist() == [13, 13, 13, 13, 0, 1, 13, 2, 3]  # 13 = outside
    assert neighbours[1].tolist() == list(range(4, 13))


def test_convolution_at_locations_equals_that_of_the_map(monkeypatch):
    monkeypatch.setattr("anchor_heads.layers.sparse_conv.CHUNK_LOCATIONS", 8)
    x, weight, bias = torch.randn(2, 3, 6, 5), torch.randn(4, 3, 3, 3), torch.randn(4)
    whole = rows(F.conv2d(x, weight, bias, padding=1))
    for locations in (torch.arange(60), torch.tensor([29, 30, 44]), torch.arange(0)):
        read, neighbours = neighborhood_3x3(locations, (2, 6, 5))
        part = sparse_conv3x3(rows(x)[read], neighbours, weight, bias)
        torch.testing.assert_close(part, whole[locations], rtol=0, atol=1e-5)
