"""The numbers of an image, beside those of the evaluators, on tiny models with random weights."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, pairwise_iou
from pycocotools.coco import COCO
from tiny_run import write_config, write_data_set

from anchor_heads import get_cfg
from anchor_heads.analysis.comparison.measure import ComparedModel, annotated_images
from anchor_heads.analysis.comparison.summary import summarize
from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.evaluation import NMSRecallEvaluator
from anchor_heads.evaluation.proposal_recall import proposal_recall
from anchor_heads.modeling.one_stage import candidates_before_nms


def tiny_model(folder, *args) -> ComparedModel:
    """A model that finds something, in a folder with a data set."""
    write_data_set(folder, num_images=6, empty=(2,))
    cfg = get_cfg()
    cfg.merge_from_file(write_config(folder, *args))
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.4
    cfg.MODEL.PIXEL_STD = [100.0] * 3
    register_coco_format(cfg)
    compared = ComparedModel("tiny", cfg)
    for name, parameter in get_anchor_strategy(compared.model).head.named_parameters():
        moves = any(x in name for x in ("delta", "bbox", "shape"))
        torch.nn.init.normal_(parameter, std=0.002 if moves else 0.05)
    return compared


def all_inputs(compared):
    return [compared.load(image) for image in annotated_images(compared.cfg.DATASETS.TEST[0])]


@torch.no_grad()
@pytest.mark.parametrize("name", ["RPN", "GuidedAnchorRPN", "DynamicAnchorRPN"])
def test_recall_of_proposals_is_the_evaluators(tmp_path, name):
    compared = tiny_model(tmp_path, "ProposalNetwork", ["MODEL.PROPOSAL_GENERATOR.NAME", name])
    images = annotated_images(tmp_path.name)
    summary = summarize([compared.measure(image) for image in images])

    predictions = []
    for model_input in all_inputs(compared):
        (output,) = compared.model([model_input])
        predictions.append({"image_id": model_input["image_id"], **output})
    coco = COCO()
    coco.dataset = DatasetCatalog[tmp_path.name].read()
    coco.createIndex()
    expected = proposal_recall(predictions, coco)
    assert 5 < expected["AR@100"] < 95
    for k in (100, 300, 1000):
        assert summary["recall"]["proposals"][str(k)]["AR"] == pytest.approx(expected[f"AR@{k}"])
    assert set(summary["recall"]) == {"anchors", "proposals"} and summary["nms_recall"] is None


@torch.no_grad()
@pytest.mark.parametrize("method", ["", "FreeAnchor", "GuidedAnchor", "DynamicAnchor"])
def test_nms_recall_is_the_evaluators(tmp_path, method):
    compared = tiny_model(tmp_path, f"{method}RetinaNet")
    images = annotated_images(tmp_path.name)
    summary = summarize([compared.measure(image) for image in images])

    evaluator = NMSRecallEvaluator(tmp_path.name, [0.5])
    for model_input in all_inputs(compared):
        with candidates_before_nms(compared.model):
            evaluator.process([model_input], compared.model([model_input]))
    expected = evaluator.evaluate()["nms_recall"]
    assert summary["nms_recall"]["NR"] == pytest.approx(expected["NR@0.5"])
    assert summary["nms_recall"]["by_iou"]["0.60"] == pytest.approx(expected["NR60@0.5"])
    assert set(summary["recall"]) == {"anchors", "detections"}


@torch.no_grad()
def test_best_iou_is_over_all_anchors(tmp_path):
    compared = tiny_model(tmp_path, "RetinaNet")
    for image, model_input in zip(
        annotated_images(tmp_path.name), all_inputs(compared), strict=True
    ):
        result = compared.measure(image)
        height, width = model_input["image"].shape[1:]
        objects = Boxes(image.objects.gt_boxes.tensor.clone())
        objects.scale(width / model_input["width"], height / model_input["height"])
        maps = [torch.zeros(1, 1, side, side) for side in (8, 4, 2)]
        anchors = Boxes.cat(compared.model.anchor_generator(maps))
        expected = pairwise_iou(objects, anchors).amax(dim=1)
        assert result["objects"]["best_iou"] == pytest.approx(expected.tolist(), rel=1e-5)
        assert result["levels"] == {"p3": [192, 64, 64], "p4": [48, 16, 16], "p5": [12, 4, 4]}
        assert result["objects"]["area"] == image.objects.gt_boxes.area().tolist()


def test_images_without_objects_or_anchors_are_measured(tmp_path):
    overrides = ["MODEL.GUIDED_ANCHOR.LOCATION_THRESH", 1.0]
    compared = tiny_model(tmp_path, "GuidedAnchorRetinaNet", overrides)
    first, _, empty, *_ = annotated_images(tmp_path.name)
    result = compared.measure(empty)
    assert result["image_id"] == 2 and result["seconds"] > 0
    assert all(values == [] for values in result["objects"].values())
    result = compared.measure(first)
    assert result["levels"]["p3"] == [0, 64, 0]
    objects = result["objects"]
    for name in ("best_iou", "anchors@10", "detections@1000", "before_nms", "after_nms"):
        assert objects[name] == [0.0]


@torch.no_grad()
def test_two_stage_models_have_proposals_and_detections(tmp_path):
    compared = tiny_model(tmp_path, "GeneralizedRCNN", ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0])
    result = compared.measure(annotated_images(tmp_path.name)[0])
    kinds = [name.removesuffix("@10") for name in result["objects"] if name.endswith("@10")]
    assert kinds == ["anchors", "proposals", "detections"]
    assert "before_nms" not in result["objects"]
    for kind in kinds:
        assert 0 < result["objects"][f"{kind}@1000"][0] <= 1


@torch.no_grad()
def test_anchors_are_ranked_by_the_scores_before_the_model_changes_them(tmp_path, monkeypatch):
    """RetinaNet takes the sigmoid in place where a map has one location."""
    compared = tiny_model(tmp_path, "RetinaNet", ["INPUT.MIN_SIZE_TEST", 24])
    seen, strategy = [], type(get_anchor_strategy(compared.model))
    original = strategy.level_anchors

    def level_anchors(self, features, predictions, image_size):
        levels = original(self, features, predictions, image_size)
        seen.append((levels[2].scores, self.head(features)[0][2]))
        return levels

    monkeypatch.setattr(strategy, "level_anchors", level_anchors)
    compared.measure(annotated_images(tmp_path.name)[2])
    ((scores, logits),) = seen
    assert logits.shape[2:] == (1, 1)
    torch.testing.assert_close(scores, logits.view(3, 2).amax(dim=1).sigmoid())
