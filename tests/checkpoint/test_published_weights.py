"""Published weights compute here what they compute in the framework that they come from."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from published_files import Arrays, load_small, small_source, write_published
from source_models import box_head, named

TOLERANCE = dict(rtol=1e-4, atol=1e-5)
METHODS = ["ga_rpn", "ga_faster_rcnn", "ga_retinanet", "da_retinanet", "free_anchor"]
LEGACY_ENDS = torch.tensor([0.0, 0.0, 1.0, 1.0])


@pytest.fixture(scope="module", params=METHODS)
def published(request, tmp_path_factory):
    """The name of a method, a network of its framework, and ours with the same weights."""
    torch.manual_seed(0)
    method = request.param
    source = small_source(method)
    path = tmp_path_factory.mktemp(method) / "published.pth"
    write_published(path, method, source.state_dict())
    return method, source, load_small(method, path)


def image_batch():
    return torch.randn(2, 3, 128, 96)


def assert_same_features(source, model):
    x = image_batch()
    with torch.no_grad():
        expected, features = source(x), model.backbone(x)
    assert len(features) == len(expected) == 5
    for ours, theirs in zip(features.values(), expected, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_features(published):
    """ResNet and FPN: stride position, batch norm's eps, levels, what P6 and P7 are made from."""
    _, source, model = published
    assert_same_features(source, model)


def detections(method, model):
    """Boxes, scores and, of detectors, classes from the features of the arrays."""
    arrays = Arrays(method)
    sizes = [(128, 160), (120, 150)]
    if method.startswith("ga"):
        sizes = arrays["in/img_shape"][:, :2].tolist()
    images = ImageList(torch.zeros(2, 3, 128, 160), [tuple(size) for size in sizes])
    features = arrays.levels("in/feat" if method.startswith("ga") else "feat/")
    with torch.no_grad():
        if method in ("ga_rpn", "ga_faster_rcnn"):
            levels = {f"p{i}": x for i, x in enumerate(features, start=2)}
            results, _ = model.proposal_generator(images, levels)
            return [(x.proposal_boxes, x.objectness_logits.sigmoid(), None) for x in results]
        predictions = model.head(features)
        results = model.forward_inference(images, features, predictions)
    return [(x.pred_boxes, x.scores, x.pred_classes) for x in results]


def published_detections(method, i):
    """The same of the published code, for image i; its order is another."""
    arrays = Arrays(method)
    if method == "free_anchor":
        boxes, scores, labels = (
            arrays[f"post/img{i}/det/{x}"] for x in ("boxes", "scores", "labels")
        )
        return boxes + LEGACY_ENDS, scores, labels - 1
    if method == "da_retinanet":
        rows, labels = (arrays[f"post/img{i}/det_{x}"] for x in ("boxes_scores", "labels"))
    else:
        name = "dets_faster_test" if method == "ga_faster_rcnn" else "dets"
        rows = arrays[f"eval{i}/{name}"]
        labels = arrays[f"eval{i}/labels"] if method == "ga_retinanet" else None
    return rows[:, :4], rows[:, 4], labels


def test_detections_of_the_head(published):
    method, _, model = published
    for i, (boxes, scores, classes) in enumerate(detections(method, model)):
        expected, expected_scores, labels = published_detections(method, i)
        order = expected_scores.argsort(descending=True, stable=True)
        torch.testing.assert_close(scores, expected_scores[order], **TOLERANCE)
        torch.testing.assert_close(boxes.tensor, expected[order], rtol=1e-4, atol=2e-3)
        assert labels is None or torch.equal(classes, labels[order])
    assert len(scores) > 50


@pytest.mark.parametrize(
    "config, groups", [("ga_retinanet_X_101_32x4d", 32), ("ga_retinanet_X_101_64x4d", 64)]
)
def test_features_of_a_resnext(tmp_path, config, groups):
    """Grouped convolutions; style "pytorch"; batch norms that train."""
    source = small_source("ga_retinanet", groups=groups, width=1, stride_in_1x1=False)
    path = write_published(tmp_path / "x.pth", "ga_retinanet", source.state_dict())
    config = f"guided_anchoring/{config}_FPN_1x"
    overrides = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 1]
    model = load_small("ga_retinanet", path, *overrides, config=config)
    assert_same_features(source, model)
    counter = model.backbone.bottom_up.res3[0].conv1.norm.num_batches_tracked
    assert counter == source.backbone.layer2[0].bn1.num_batches_tracked


def roi_predictions(head, x, first_class, num_classes):
    """Probabilities with the background last, and deltas, as the published box head has them."""
    for fc in head.shared_fcs:
        x = F.relu(fc(x.flatten(1)))
    probabilities = F.softmax(head.fc_cls(x), dim=1)
    deltas = head.fc_reg(x).view(len(x), -1, 4)
    classes = range(first_class, first_class + num_classes)
    background = 0 if first_class else num_classes
    return probabilities[:, [*classes, background]], deltas[:, list(classes)].flatten(1)


@pytest.mark.parametrize("version", ["1.x", "2.x"])
def test_box_head(tmp_path, version):
    """In 1.x the background is the first class, with deltas of its own; in 2.x the last."""
    first_class = 1 if version == "1.x" else 0
    head = box_head(classes=3, deltas=3 + first_class, channels=16, fc=8)
    source = small_source("ga_rpn").state_dict()
    prefix = "bbox_head." if version == "1.x" else "roi_head.bbox_head."
    source |= {prefix + key: x for key, x in head.state_dict().items()}
    path = write_published(tmp_path / "faster.pth", "ga_faster_rcnn", source)
    overrides = ["MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.ROI_BOX_HEAD.FC_DIM", 8]
    roi_heads = load_small("ga_faster_rcnn", path, *overrides).roi_heads

    x = torch.randn(6, 16, 7, 7)
    with torch.no_grad():
        scores, deltas = roi_heads.box_predictor(roi_heads.box_head(x))
        expected, expected_deltas = roi_predictions(head, x, first_class, num_classes=3)
    torch.testing.assert_close(scores.softmax(dim=1), expected, **TOLERANCE)
    torch.testing.assert_close(deltas, expected_deltas, **TOLERANCE)


def test_names_of_mmdetection_before_1_0(tmp_path):
    """Its towers were plain convolutions, without ".conv" in their keys."""
    source = small_source("ga_retinanet")
    weights = {
        key.replace(".conv.", ".") if "_convs" in key and "bbox_head" in key else key: x
        for key, x in source.state_dict().items()
    }
    assert "bbox_head.cls_convs.1.weight" in weights
    model = load_small("ga_retinanet", write_published(tmp_path / "x.pth", "ga", weights))
    layer = source.bbox_head.cls_convs[1].conv
    assert torch.equal(model.head.cls_subnet[2].weight, layer.weight)


def test_the_box_head_of_another_model_is_not_taken(tmp_path):
    """Cascade heads have a number in their keys; the proposal generator is loaded all the same."""
    source = small_source("ga_rpn", heads={"roi_head": named(bbox_head=named(**{"0": box_head()}))})
    path = write_published(tmp_path / "cascade.pth", "ga_rpn", source.state_dict())
    model = load_small("ga_rpn", path)
    head = model.proposal_generator.rpn_head
    assert torch.equal(head.conv_loc.weight, source.rpn_head.conv_loc.weight)
