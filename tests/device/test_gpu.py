"""What only a GPU can show: ``pytest -m gpu``. Skipped where there is none."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_run import arguments, load_weights, train, write_config, write_data_set

from anchor_heads import model_zoo
from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.layers import deform_conv2d, deform_conv2d_at, rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
DEVICE = "cuda"
PUBLISHED = [
    "baselines/retinanet_R_50_FPN_1x",
    "free_anchor/free_anchor_R_50_FPN_1x",
    "guided_anchoring/ga_retinanet_R_50_FPN_1x",
    "dynamic_anchor/da_retinanet_R_50_FPN_1x",
    "guided_anchoring/ga_faster_rcnn_R_50_FPN_1x",
    "free_anchor/free_anchor_faster_rcnn_R_50_FPN_1x",
    "dynamic_anchor/da_faster_rcnn_R_50_FPN_1x",
]


def build(config):
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = DEVICE, ""
    cfg.MODEL.PIXEL_STD = [2000.0] * 3  # keeps the output of a deep net without norm small
    torch.manual_seed(0)
    return build_model(cfg)


def image_with(num_objects, height=800, width=1216):
    generator = torch.Generator().manual_seed(num_objects)
    corner = torch.rand(num_objects, 2, generator=generator) * torch.tensor([1000.0, 600.0])
    size = 20 + torch.rand(num_objects, 2, generator=generator) * 180
    objects = Instances(
        (height, width),
        gt_boxes=Boxes(torch.cat([corner, corner + size], dim=1)),
        gt_classes=torch.zeros(num_objects, dtype=torch.int64),
    )
    pixels = torch.randint(0, 255, (3, height, width), generator=generator).to(torch.uint8)
    return {"image": pixels, "instances": objects}


def training_losses(model, batch):
    torch.manual_seed(0)
    with EventStorage():
        return model(batch)


@pytest.mark.parametrize("config", PUBLISHED)
def test_a_step_of_a_published_config(config):
    model = build(config)
    losses = training_losses(model, [image_with(10), image_with(0)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", PUBLISHED[:4])
def test_mixed_precision_has_the_losses_of_float32(config, dtype):
    model, batch = build(config), [image_with(10)]
    expected = training_losses(model, batch)
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16, init_scale=128.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with torch.autocast(DEVICE, dtype=dtype):
        losses = training_losses(model, batch)
    scaler.scale(sum(losses.values())).backward()
    scaler.unscale_(optimizer)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    scaler.step(optimizer)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.1, abs=0.02)


@pytest.mark.parametrize("groups", [1, 4])
def test_deformable_convolution_has_the_values_and_gradients_of_the_cpu(groups):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (2, 16, 13, 17),
        (2, groups * 18, 13, 17),
        (8, 16, 3, 3),
        (8,),
        (2, groups * 9, 13, 17),
    ]
    x, offset, *others = (torch.randn(shape, generator=generator) for shape in shapes)
    results = []
    for device in ("cpu", DEVICE):  # our own, and torchvision's
        leaves = [t.detach().to(device).requires_grad_() for t in (x, 3 * offset, *others)]
        out = deform_conv2d(*leaves)
        out.square().sum().backward()
        results.append([t.cpu() for t in (out, *(leaf.grad for leaf in leaves))])
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)


def test_deformable_convolution_at_chosen_locations_equals_that_of_the_map():
    x = torch.randn(2, 16, 13, 17, device=DEVICE)
    offset = torch.randn(2, 4 * 18, 13, 17, device=DEVICE) * 3
    weight = torch.randn(8, 16, 3, 3, device=DEVICE)
    locations = torch.randperm(2 * 13 * 17, device=DEVICE)[:50]
    chosen = deform_conv2d_at(x, rows(offset)[locations], weight, locations)
    whole = rows(deform_conv2d(x, offset, weight))[locations]
    torch.testing.assert_close(chosen, whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize(
    "config", ["guided_anchoring/ga_retinanet_R_50_FPN_1x", "guided_anchoring/ga_rpn_R_50_FPN_1x"]
)
def test_sparse_predictions_are_those_of_the_whole_map(config, share):
    strategy = get_anchor_strategy(build(config).eval())
    generator = torch.Generator().manual_seed(0)
    images = strategy.preprocess(image_with(1)["image"])
    with (
        torch.no_grad(),
        strategy.kept_locations(lambda size: torch.rand(size, generator=generator) < share),
    ):
        predictions = strategy.head(strategy.features(images))
    sparse = strategy.predict_at_kept_locations(predictions, sparse=True)
    dense = strategy.predict_at_kept_locations(predictions, sparse=False)
    for level, expected in zip(sparse, dense, strict=True):
        for ours, theirs in zip(level, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", PUBLISHED[1:4])
def test_memory_of_a_step_does_not_grow_with_the_objects(config):
    model = build(config)
    peaks = {}
    for num_objects in (10, 500):
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        sum(training_losses(model, [image_with(num_objects)]).values()).backward()
        peaks[num_objects] = torch.cuda.max_memory_allocated()
    assert peaks[500] < 1.25 * peaks[10]


@pytest.mark.parametrize(
    "meta_architecture",
    ["FreeAnchorRetinaNet", "GuidedAnchorRetinaNet", "DynamicAnchorRetinaNet"],
)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path, meta_architecture):
    overrides = ["MODEL.DEVICE", DEVICE, "MODEL.RETINANET.IOU_THRESHOLDS", [0.5]]
    overrides += ["MODEL.RETINANET.IOU_LABELS", [0, 1], "SOLVER.BASE_LR", 0.001]
    write_data_set(tmp_path)
    config = write_config(tmp_path, meta_architecture, overrides)
    train(arguments(config))
    whole = load_weights(tmp_path / "output")
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000001.pth")
    train(arguments(config, flags=("--resume",)))
    resumed = load_weights(tmp_path / "output")
    for name, weight in whole.items():
        # Kernels that add in any order make two runs differ by rounding.
        torch.testing.assert_close(resumed[name], weight, rtol=1e-3, atol=1e-5)
