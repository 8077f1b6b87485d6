"""Where frameworks differ beside names. README.md of anchor_heads/checkpoint has the table."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from published_files import CONFIGS, load_small, small_cfg, small_source, write_published
from source_models import weightless
from tiny_run import REPOSITORY

from anchor_heads import model_zoo
from anchor_heads.checkpoint import mmdetection, recognize
from anchor_heads.checkpoint.maskrcnn_benchmark import sizes_first

TABLE = REPOSITORY / "anchor_heads/checkpoint/README.md"


def test_every_test_that_the_table_names_is_there():
    names = set(re.findall(r"`(test_\w+)`", TABLE.read_text()))
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert len(names) > 10
    assert names <= set(re.findall(r"def (test_\w+)", tests))


def test_classes_are_in_the_order_of_their_coco_ids():
    """So they are in mmdetection 2.x, and, one higher, in 1.x and maskrcnn-benchmark."""
    metadata = MetadataCatalog.get("coco_2017_val")
    ids = metadata.thing_dataset_id_to_contiguous_id
    assert list(ids.values()) == list(range(80))
    assert list(ids) == sorted(ids)
    first_of_mmdetection = ["person", "bicycle", "car", "motorcycle", "airplane", "bus"]
    last_of_mmdetection = ["clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"]
    assert metadata.thing_classes[:6] == first_of_mmdetection
    assert metadata.thing_classes[-6:] == last_of_mmdetection


def test_the_first_class_of_mmdetection_1_is_the_background():
    bias = torch.tensor([0.0, 1.0, 2.0])
    assert mmdetection.background_last(bias).tolist() == [1, 2, 0]
    assert mmdetection.without_background(torch.arange(12.0)).tolist() == list(range(4, 12))
    assert mmdetection.without_background(torch.arange(4.0)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["ga_rpn", "ga_retinanet", "ga_faster_rcnn"])
def test_files_of_mmdetection_1_come_with_its_keys(method):
    """Only the box head shows in the keys of which version they are."""
    keys = weightless(method)
    first_keys = [key.replace("roi_head.bbox_head.", "bbox_head.") for key in keys]
    assert recognize(keys, "2.3.0").note == recognize(keys).note == ""
    first = recognize(first_keys, "1.1.0+f4bd0aa")
    assert str(first).endswith("of mmdetection 1.x")
    assert "MODEL.ANCHOR_GENERATOR.OFFSET 0.5" in first.note
    assert ("MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlign, " in first.note) == (
        method == "ga_faster_rcnn"
    )
    pairs = re.findall(r"(MODEL\.\S+) (\S+)", first.note)
    overrides = [text.rstrip(".,") for pair in pairs for text in pair]
    assert model_zoo.get_config(CONFIGS[method], overrides).MODEL.ANCHOR_GENERATOR.OFFSET == 0.5


def test_anchors_of_a_location_by_size_and_not_by_ratio():
    """Two classes: the number is 100 * ratio + 10 * size + class."""
    published = [100 * r + 10 * s + c for r in range(3) for s in range(3) for c in range(2)]
    ours = [100 * r + 10 * s + c for s in range(3) for r in range(3) for c in range(2)]
    assert sizes_first(torch.tensor(published)).tolist() == ours
    weight = torch.tensor(published)[:, None, None, None].expand(18, 4, 3, 3)
    assert sizes_first(weight)[:, 3, 2, 1].tolist() == ours
    with pytest.raises(ValueError, match="has 10 outputs.*the 9 anchors per location"):
        sizes_first(torch.zeros(10))


def test_batch_norms_of_maskrcnn_benchmark_have_no_eps(tmp_path):
    source = small_source("free_anchor")
    path = write_published(tmp_path / "x.pth", "free_anchor", source.state_dict())
    norm = load_small("free_anchor", path).backbone.bottom_up.stem.conv1.norm
    published = source.backbone.body.stem.bn1
    assert norm.eps == 1e-5
    torch.testing.assert_close(norm.running_var + norm.eps, published.running_var)
    x = torch.randn(1, 64, 2, 2)
    torch.testing.assert_close(norm(x), published(x), rtol=1e-4, atol=1e-5)


# What the published configs do with an image that OpenCV has read, as BGR: mean and deviation, of
# RGB where the third is True.
CAFFE_2X = ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0], False)
MSRA = ([102.9801, 115.9465, 122.7717], [1.0, 1.0, 1.0], False)
PYTORCH = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], True)
PIXELS = [
    ("ga_retinanet", "guided_anchoring/ga_retinanet_R_50_FPN_1x", CAFFE_2X),
    ("ga_rpn", "guided_anchoring/ga_rpn_X_101_64x4d_FPN_1x", PYTORCH),
    ("free_anchor", "free_anchor/free_anchor_X_101_32x8d_FPN_j1.5x", MSRA),
    ("free_anchor", "free_anchor/free_anchor_X_101_64x4d_FPN_j2x", MSRA),
    ("da_retinanet", "dynamic_anchor/da_retinanet_X_101_32x4d_FPN_1x", MSRA),
]


@pytest.mark.parametrize("method, config, published", PIXELS, ids=[x[1] for x in PIXELS])
def test_pixels(method, config, published):
    """Zeros are appended after the means are subtracted, up to multiples of 32."""
    cfg = small_cfg(method, "MODEL.RESNETS.DEPTH", 50, "MODEL.WEIGHTS", "", config=config)
    cfg.INPUT.MIN_SIZE_TEST = 40  # of the image below: not resized
    predictor = DefaultPredictor(cfg)
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    seen = []
    predictor.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    predictor(image)

    mean, std, rgb = published
    pixels = image[:, :, ::-1] if rgb else image
    expected = torch.zeros(1, 3, 64, 96)
    expected[0, :, :40, :70] = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


# The deviations in the published configs, and whether log sizes are limited below as well. The ROI
# heads are Detectron2's own.
TRANSFORMS = [
    ("ga_rpn", (0.07, 0.07, 0.11, 0.11), True),
    ("ga_retinanet", (1.0, 1.0, 1.0, 1.0), True),
    ("da_retinanet", (1.0, 1.0, 1.0, 1.0), True),
    ("ga_faster_rcnn", (0.05, 0.05, 0.1, 0.1), False),
    ("free_anchor", (0.1, 0.1, 0.2, 0.2), False),
]


@pytest.mark.parametrize("method, deviations, limited_below", TRANSFORMS)
def test_deltas(method, deviations, limited_below):
    """Boxes 20 wide and 40 high; the first is moved and resized, up to the limit in height."""
    model = build_model(small_cfg(method))
    if method == "ga_faster_rcnn":
        transform = model.roi_heads.box_predictor.box2box_transform
    elif method == "ga_rpn":
        transform = model.proposal_generator.box2box_transform
    else:
        transform = model.box2box_transform
    moved = (0.5 / deviations[0], -0.25 / deviations[1], 1 / deviations[2], 99.0)
    deltas = torch.tensor([moved, (0.0, 0.0, -5 / deviations[2], 0.0)])
    boxes = transform.apply_deltas(deltas, torch.tensor([[10.0, 0.0, 30.0, 40.0]] * 2))
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    torch.testing.assert_close(centers, torch.tensor([[30.0, 10.0], [20.0, 20.0]]))
    least = 16 / 1000 if limited_below else math.exp(-5)
    expected = torch.tensor([[20 * math.e, 40 * 1000 / 16], [20 * least, 40]])
    torch.testing.assert_close(sizes, expected, rtol=1e-4, atol=1e-4)


# The centre of the first location's anchors, in pixels, and the strides of the levels.
CENTERS = [
    ("ga_rpn", 0.0, 4),
    ("ga_retinanet", 0.0, 8),
    ("free_anchor", 4.0, 8),
    ("da_retinanet", 4.0, 8),
]


@pytest.mark.parametrize("method, center, stride", CENTERS)
def test_centers_of_anchors(method, center, stride):
    model = build_model(small_cfg(method))
    if method == "ga_rpn":
        generator = model.proposal_generator.guided_anchoring.square_generator
    elif method == "ga_retinanet":
        generator = model.guided_anchoring.square_generator
    elif method == "da_retinanet":
        generator = model.dynamic_anchoring.square_generator
    else:
        generator = model.anchor_generator
    levels = generator([torch.zeros(1, 1, 2, 3)] * 5)
    for i, boxes in enumerate(levels):
        first, last = boxes.get_centers()[[0, -1]]
        step = stride * 2**i
        expected = torch.tensor([center, center]) * 2**i
        torch.testing.assert_close(first, expected)
        torch.testing.assert_close(last, expected + torch.tensor([2.0 * step, step]))


def test_pooling_of_regions():
    """mmdetection 2.x shifts regions by half a pixel, and takes as many samples as there are."""
    pooler = build_model(small_cfg("ga_faster_rcnn")).roi_heads.box_pooler
    layers = pooler.level_poolers
    assert [layer.spatial_scale for layer in layers] == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert all(layer.aligned and layer.sampling_ratio == 0 for layer in layers)
    assert (pooler.canonical_level, pooler.canonical_box_size) == (4, 224)
