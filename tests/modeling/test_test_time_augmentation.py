"""Test-time augmentation of one-stage models, on a small model with random weights."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import pairwise_iou

from anchor_heads import model_zoo
from anchor_heads.modeling.test_time_augmentation import (
    DenseDetectorWithTTA,
    build_tta,
    build_tta_test_loader,
)

HEIGHT, WIDTH = 60, 90


def config(name="quick_start/free_anchor", **aug):
    cfg = model_zoo.get_config(name, ["MODEL.DEVICE", "cpu"])
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.TEST.AUG.MAX_SIZE = cfg.INPUT.MAX_SIZE_TEST
    for key, value in aug.items():
        cfg.TEST.AUG[key] = value
    return cfg


@pytest.fixture(scope="module")
def model():
    """Scores spread widely, without ties, and boxes of which some stick out of the image."""
    torch.manual_seed(0)
    model = build_model(config())
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.1)
    torch.nn.init.normal_(model.head.bbox_pred.weight, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def as_input(image):
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return {"image": tensor, "height": HEIGHT, "width": WIDTH}


@torch.no_grad()
def detect(model, image, min_size=64):
    resized = T.ResizeShortestEdge(min_size, 1333).get_transform(image).apply_image(image)
    return model([as_input(resized)])[0]["instances"]


def detect_augmented(model, image, **aug):
    return build_tta(config(**aug), model)([as_input(image)])[0]["instances"]


def assert_same(found, expected, atol=1e-3):
    assert len(found) == len(expected) == 100
    assert found.image_size == expected.image_size == (HEIGHT, WIDTH)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=atol
    )
    assert found.pred_classes.equal(expected.pred_classes)


def test_one_scale_without_flip_is_the_plain_model(model, image):
    assert_same(detect_augmented(model, image, MIN_SIZES=(64,), FLIP=False), detect(model, image))


def test_an_image_that_is_already_resized(model, image):
    """As Detectron2's usual test loader gives it."""
    resized = T.ResizeShortestEdge(64, 1333).get_transform(image).apply_image(image)
    tta = build_tta(config(MIN_SIZES=(64,), FLIP=False), model)
    assert_same(tta([as_input(resized)])[0]["instances"], detect(model, image))


def test_without_height_and_width_the_frame_is_the_given_image(model, image):
    tta = build_tta(config(MIN_SIZES=(64,), FLIP=False), model)
    only_image = {"image": as_input(image)["image"]}
    assert_same(tta([only_image])[0]["instances"], detect(model, image))


def test_flip_makes_the_result_symmetric(model, image):
    found = detect_augmented(model, image, MIN_SIZES=(64,), FLIP=True)
    flipped = detect_augmented(model, image[:, ::-1], MIN_SIZES=(64,), FLIP=True)
    boxes = flipped.pred_boxes.tensor[:, [2, 1, 0, 3]]
    boxes[:, 0::2] = WIDTH - boxes[:, 0::2]
    flipped.pred_boxes.tensor = boxes
    assert_same(found, flipped)
    plain = detect(model, image)
    assert not torch.allclose(found.scores, plain.scores)


def test_scales_are_merged_by_one_nms(model, image):
    sizes = (48, 64)
    found = detect_augmented(model, image, MIN_SIZES=sizes, FLIP=False)
    separate = torch.cat([detect(model, image, size).scores for size in sizes])
    # The best box of all survives NMS, and every detection is one of the candidates.
    assert found.scores[0] == separate.max()
    assert (found.scores.diff() <= 0).all()
    for k in range(model.num_classes):
        boxes = found.pred_boxes[found.pred_classes == k]
        # Clipping after NMS may raise the IoU of boxes that stick out of the image.
        inside = boxes[boxes.inside_box((HEIGHT - 1, WIDTH - 1), -1)]
        iou = pairwise_iou(inside, inside).fill_diagonal_(0)
        assert len(iou) == 0 or iou.max() <= model.test_nms_thresh


def test_limits_of_the_model_are_kept(model, image):
    found = detect_augmented(model, image, MIN_SIZES=(48, 64), FLIP=True)
    assert len(found) == model.max_detections_per_image == 100
    assert model.test_nms_thresh == 0.5 and model.test_topk_candidates == 1000


def test_training_mode_is_refused(model, image):
    tta = build_tta(config(MIN_SIZES=(64,)), model)
    try:
        with pytest.raises(RuntimeError, match="eval"):
            tta.train()([as_input(image)])
    finally:
        model.eval()


def test_each_kind_of_model_has_its_own(model):
    assert isinstance(build_tta(config(), model), DenseDetectorWithTTA)
    cfg = config("baselines/faster_rcnn_R_50_FPN_1x")
    assert isinstance(build_tta(cfg, build_model(cfg)), GeneralizedRCNNWithTTA)
    cfg = config("baselines/rpn_R_50_FPN_1x")
    with pytest.raises(ValueError, match="ProposalNetwork makes none"):
        build_tta(cfg, build_model(cfg))


def test_loader_gives_the_original_image(tmp_path, image):
    path = str(tmp_path / "1.png")
    cv2.imwrite(path, image)
    record = {"file_name": path, "height": HEIGHT, "width": WIDTH, "image_id": 1}
    DatasetCatalog.register("tta_test", lambda: [record])
    ((loaded,),) = build_tta_test_loader(config(), "tta_test")
    assert loaded["image"].equal(as_input(image)["image"])
    assert len(DatasetMapperTTA(config(MIN_SIZES=(48, 64), FLIP=True))(loaded)) == 4
