import pytest
import torch
import torch.nn.functional as F

from anchor_heads.anchor_generation import FeatureAdaption
from anchor_heads.layers import rows


def test_offsets_are_linear_in_the_shape_and_teach_it_nothing():
    adaption = FeatureAdaption(8, 6)
    x, shape = torch.randn(1, 8, 4, 5), torch.randn(1, 2, 4, 5, requires_grad=True)
    out = adaption(x, shape)
    assert out.shape == (1, 6, 4, 5) and (out >= 0).all()
    out.sum().backward()
    assert shape.grad is None
    assert adaption.conv_offset.weight.grad.abs().sum() > 0


def test_square_anchors_of_the_grid_leave_a_plain_convolution():
    adaption = FeatureAdaption(8, 6)
    x = torch.randn(1, 8, 4, 5)
    plain = F.relu(F.conv2d(x, adaption.conv_adaption.weight, padding=1))
    torch.testing.assert_close(adaption(x, torch.zeros(1, 2, 4, 5)), plain)


def test_at_locations_equals_the_whole_map():
    adaption = FeatureAdaption(8, 6)
    x, shape = torch.randn(2, 8, 4, 5), torch.randn(2, 2, 4, 5) * 5
    locations = torch.tensor([0, 13, 39])
    with torch.no_grad():
        whole, part = rows(adaption(x, shape)), adaption.forward_sparse(x, shape, locations)
    torch.testing.assert_close(part, whole[locations], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_with_weights_of_another_precision(dtype):
    adaption = FeatureAdaption(8, 6)
    x, shape = torch.randn(1, 8, 4, 5), torch.randn(1, 2, 4, 5)
    locations = torch.arange(20)
    with torch.no_grad():
        exact = adaption(x, shape)
        adaption.to(dtype)
        whole = adaption(x.to(dtype), shape)
        part = adaption.forward_sparse(x.to(dtype), shape, locations)
    assert whole.dtype == part.dtype == dtype
    torch.testing.assert_close(whole.float(), exact, rtol=0.05, atol=0.02)
    torch.testing.assert_close(part, rows(whole))


def test_is_computed_in_float32_under_autocast():
    adaption = FeatureAdaption(8, 6)
    x, shape = torch.randn(1, 8, 4, 5).bfloat16(), torch.randn(1, 2, 4, 5).bfloat16()
    with torch.no_grad():
        exact = adaption(x.float(), shape.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            whole, part = adaption(x, shape), adaption.forward_sparse(x, shape, torch.arange(20))
    torch.testing.assert_close(whole, exact)
    torch.testing.assert_close(part, rows(exact))


def test_names_of_the_parameters_are_the_published_ones():
    names = {name: tuple(x.shape) for name, x in FeatureAdaption(8, 6).named_parameters()}
    assert names == {"conv_offset.weight": (72, 2, 1, 1), "conv_adaption.weight": (6, 8, 3, 3)}


def test_channels_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="has 10 channels, which cannot be divided into 4 parts"):
        FeatureAdaption(10, 10)


def test_kaiming_initialization_keeps_the_scale_of_narrow_features():
    torch.manual_seed(0)
    x, shape = torch.randn(4, 16, 16, 16), torch.zeros(4, 2, 16, 16)
    published, kaiming = (
        FeatureAdaption(16, 64, kaiming_init=kaiming_init)(x, shape).square().mean().sqrt().item()
        for kaiming_init in (False, True)
    )
    assert published == pytest.approx(0.08, abs=0.02)
    assert kaiming == pytest.approx(1.0, abs=0.15)
