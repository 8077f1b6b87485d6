import pytest
import torch
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from anchor_heads.layers import (
    DeformConv,
    ModulatedDeformConvPack,
    deform_conv2d,
    deform_conv2d_at,
    rows,
)


def inputs(groups=4, channels=8, out_channels=6, size=(5, 7), kernel=3, dtype=torch.float32):
    """Offsets of up to several cells, so that samples lie outside the map too."""
    x = torch.randn(2, channels, *size, dtype=dtype)
    offset = torch.randn(2, groups * 2 * kernel**2, *size, dtype=dtype) * 3
    weight = torch.randn(out_channels, channels, kernel, kernel, dtype=dtype)
    return x, offset, weight


@pytest.mark.parametrize("groups,kernel", [(4, 3), (1, 3), (2, 1), (1, 5)])
@pytest.mark.parametrize("modulated", [False, True])
def test_equals_torchvisions(groups, kernel, modulated):
    x, offset, weight = inputs(groups, kernel=kernel)
    bias = torch.randn(6) if modulated else None
    mask = torch.rand(2, groups * kernel**2, 5, 7) if modulated else None
    leaves = [t for t in (x, offset, weight, bias, mask) if t is not None]
    for t in leaves:
        t.requires_grad_()
    ours = deform_conv2d(x, offset, weight, bias, mask)
    theirs = torchvision_deform_conv2d(x, offset, weight, bias, padding=kernel // 2, mask=mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    seed = torch.randn_like(ours)
    ours, theirs = (torch.autograd.grad(x, leaves, seed) for x in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_offsets_are_pairs_of_y_and_x():
    """One group; the centre tap is moved one row down and two columns right."""
    x = torch.arange(12.0).view(1, 1, 3, 4)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    offset = torch.zeros(1, 18, 3, 4)
    offset[:, 8], offset[:, 9] = 1, 2
    expected = torch.tensor([[6.0, 7, 0, 0], [10, 11, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(deform_conv2d(x, offset, weight)[0, 0], expected)


def test_gradients_are_right_in_double_precision():
    x, offset, weight = inputs(
        groups=2, channels=4, out_channels=2, size=(3, 4), dtype=torch.float64
    )
    mask = torch.rand(2, 18, 3, 4, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, offset, weight, mask)]
    assert torch.autograd.gradcheck(lambda x, o, w, m: deform_conv2d(x, o, w, mask=m), leaves)


def test_at_locations_equals_the_whole_map():
    x, offset, weight = inputs()
    mask = torch.rand(2, 36, 5, 7)
    whole = rows(deform_conv2d(x, offset, weight, mask=mask))
    locations = torch.tensor([0, 3, 34, 35, 69])  # 35 cells an image
    part = deform_conv2d_at(
        x, rows(offset)[locations], weight, locations, mask=rows(mask)[locations]
    )
    torch.testing.assert_close(part, whole[locations], rtol=0, atol=1e-5)
    none = locations[:0]
    assert deform_conv2d_at(x, rows(offset)[none], weight, none).shape == (0, 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_offset_that_is_not_finite_makes_its_location_nan_and_no_other(value):
    x, offset, weight = inputs()
    whole = deform_conv2d(x, offset, weight)
    offset[1, 7, 2, 3] = value
    out = deform_conv2d(x, offset.requires_grad_(), weight)
    assert out[1, :, 2, 3].isnan().all()
    out.sum().backward()
    assert not offset.grad[1, :, 2, 3].isfinite().all()
    others = torch.ones(2, 5, 7, dtype=torch.bool)
    others[1, 2, 3] = False
    assert torch.equal(rows(out)[others.flatten()], rows(whole)[others.flatten()])


def test_offsets_beyond_the_range_of_int32_sample_zeros():
    x, offset, weight = inputs()
    assert not deform_conv2d(x, torch.full_like(offset, 1e30), weight).any()
    assert not deform_conv2d(x, torch.full_like(offset, -1e30), weight).any()


def test_more_locations_than_are_handled_at_a_time(monkeypatch):
    x, offset, weight = inputs()
    whole = deform_conv2d(x, offset, weight)
    monkeypatch.setattr("anchor_heads.layers.deform_conv.CHUNK_LOCATIONS", 16)
    torch.testing.assert_close(deform_conv2d(x, offset, weight), whole)


def test_is_computed_in_float32_under_autocast():
    layer = DeformConv(8, 6)
    x, offset, _ = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x.bfloat16(), offset)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, layer(x.bfloat16().float(), offset))


def test_parameters_and_the_size_of_the_kernel():
    assert list(DeformConv(8, 6).state_dict()) == ["weight"]
    assert list(DeformConv(8, 6, bias=True).state_dict()) == ["weight", "bias"]
    with pytest.raises(ValueError, match="kernel_size is 2; it must be odd"):
        DeformConv(8, 6, kernel_size=2)


def test_modulated_layer_predicts_offsets_then_the_mask():
    layer = ModulatedDeformConvPack(8, 6)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 8, 5, 7)
    predicted = layer.conv_offset(x)
    expected = torchvision_deform_conv2d(
        x,
        predicted[:, :18],
        layer.weight,
        layer.bias,
        padding=1,
        mask=predicted[:, 18:].sigmoid(),
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    names = ["weight", "bias", "conv_offset.weight", "conv_offset.bias"]
    assert list(layer.state_dict()) == names
    assert layer.conv_offset.weight.shape == (27, 8, 3, 3)


def test_modulated_layer_starts_as_half_a_plain_convolution():
    layer = ModulatedDeformConvPack(8, 6)
    x = torch.randn(1, 8, 4, 5)
    plain = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(layer(x), plain / 2)


def test_modulated_layer_under_autocast():
    layer = ModulatedDeformConvPack(8, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.randn(1, 8, 4, 5).bfloat16())
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("modulated", [False, True])
def test_batch_of_no_images(modulated):
    """As torch's convolutions: an empty map, and gradients of 0."""
    x, offset, weight = (t[:0] if len(t) == 2 else t for t in inputs())
    mask = torch.rand(0, 36, 5, 7) if modulated else None
    leaves = [t.requires_grad_() for t in (x, offset, weight)]
    out = deform_conv2d(x, offset, weight, mask=mask)
    assert out.shape == (0, 6, 5, 7)
    gradients = torch.autograd.grad(out.sum(), leaves)
    assert [g.shape for g in gradients] == [t.shape for t in leaves]
    assert not gradients[2].any()
