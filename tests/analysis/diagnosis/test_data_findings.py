from dataclasses import replace

import pytest
from made_case import config, made_case, proposal_config, square

from anchor_heads.analysis.diagnosis.data_findings import (
    absent_classes,
    box_format,
    converted_fields,
    detection_limit,
    images_without_objects,
    number_of_classes,
    positives_limit,
    proposal_limit,
    rare_classes,
    spoilt_boxes,
)
from anchor_heads.data.coco_boxes import CORNERS
from anchor_heads.data.coco_json import CLIPPED, CONVERTED, DROPPED, Change, Cleaning

BOX = square(84, 32)


def case_of(cfg, *counts, **data):
    """A case with so many objects in each image."""
    return made_case(cfg, *[[BOX] * count for count in counts], **data)


@pytest.mark.parametrize(
    "architecture, key",
    [
        ("FreeAnchorRetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_number_of_classes(architecture, key):
    finding = number_of_classes(case_of(config(architecture, key, 80), 1))
    assert finding.severity == "error" and finding.numbers == {"model": 80, "data": 2}
    assert finding.suggestion.changes == {key: 2}
    assert number_of_classes(case_of(config(architecture, key, 2), 1)) is None


def test_proposals_have_no_classes():
    cfg = proposal_config("RPN", "MODEL.ROI_HEADS.NUM_CLASSES", 80)
    assert number_of_classes(case_of(cfg, 1)) is None


def test_absent_and_rare_classes():
    def findings(cats, dogs):
        case = case_of(config(), cats + dogs, classes=[0] * cats + [1] * dogs)
        return absent_classes(case), rare_classes(case)

    absent, rare = findings(0, 10)
    assert absent.sentence == "1 of 2 classes (50.0 %) have no box and are never learned (cat)."
    assert absent.numbers == {"count": 1, "total": 2} and rare is None
    assert absent.suggestion.changes == {"DATASETS.TRAIN": None}
    absent, rare = findings(10, 9)
    assert absent is None and rare.numbers == {"count": 1, "total": 2}
    assert rare.sentence.endswith("fewer than 10 boxes: hardly learned (dog).")
    assert findings(10, 10) == (None, None)


def test_images_of_rare_classes_are_drawn_twice_as_often():
    images = [[BOX]] * 100
    case = made_case(config(), *images, classes=[1] * 4 + [0] * 96)
    changes = rare_classes(case).suggestion.changes
    assert changes == {
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.16,  # sqrt(0.16 / 0.04) = 2
    }


def test_images_without_objects():
    key = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
    finding = images_without_objects(case_of(config(), *[1] * 99, without_objects=1))
    assert finding.severity == "note" and finding.numbers == {"count": 1, "total": 100}
    assert finding.suggestion.changes == {key: False}
    assert images_without_objects(case_of(config(), *[1] * 100, without_objects=1)) is None
    kept = config("RetinaNet", key, False)
    assert images_without_objects(case_of(kept, *[1] * 9, without_objects=1)) is None


def test_detection_limit():
    cfg = config("RetinaNet", "TEST.DETECTIONS_PER_IMAGE", 20)
    assert detection_limit(case_of(cfg, 20, 3)) is None
    finding = detection_limit(case_of(cfg, 21, 51, 3))
    assert finding.numbers == {"count": 2, "total": 3}
    assert finding.sentence == (
        "2 of 3 images (66.7 %) have more objects (up to 51) than the 20 that may be detected in "
        "one."
    )
    assert finding.suggestion.changes == {"TEST.DETECTIONS_PER_IMAGE": 100}
    assert detection_limit(case_of(config("ProposalNetwork"), 101)) is None
    unlimited = config("RetinaNet", "TEST.DETECTIONS_PER_IMAGE", -1)
    assert detection_limit(case_of(unlimited, 300)) is None


def test_one_crowded_image_of_many_is_a_note():
    finding = detection_limit(case_of(config(), 101, *[1] * 20))
    assert finding.severity == "note" and finding.numbers == {"count": 1, "total": 21}


def test_proposal_limit():
    keys = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 40, "MODEL.RPN.POST_NMS_TOPK_TEST", 30]
    cfg = proposal_config("GuidedAnchorRPN", *keys)
    assert proposal_limit(case_of(cfg, 30)) is None
    finding = proposal_limit(case_of(cfg, 31))
    assert finding.suggestion.changes == {"MODEL.RPN.POST_NMS_TOPK_TEST": 50}
    assert "(up to 31) than the 30 proposals of one" in finding.sentence
    finding = proposal_limit(case_of(cfg, 41))
    assert finding.suggestion.changes == {keys[0]: 50, keys[2]: 50}
    assert proposal_limit(case_of(config(), 5000)) is None

    key = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"
    stored = proposal_config("PrecomputedProposals", key, 30, architecture="GeneralizedRCNN")
    assert proposal_limit(case_of(stored, 30)) is None
    assert proposal_limit(case_of(stored, 31)).suggestion.changes == {key: 50}


def test_positives_limit():
    def changes(cfg, number):
        finding = positives_limit(case_of(cfg, number))
        return finding and finding.suggestion.changes

    rpn = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 300}  # half of them are positive
    shapes = {"MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE": 300}
    heads = {"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 550}  # a quarter
    assert changes(proposal_config("RPN"), 128) is None
    assert changes(proposal_config("RPN"), 129) == rpn
    assert changes(proposal_config("FreeAnchorRPN"), 129) is None
    faster_rcnn = {"architecture": "GeneralizedRCNN"}
    assert changes(proposal_config("DynamicAnchorRPN", **faster_rcnn), 129) == rpn | heads
    assert changes(proposal_config("FreeAnchorRPN", **faster_rcnn), 129) == heads
    assert changes(config("GuidedAnchorRetinaNet"), 128) is None
    assert changes(config("GuidedAnchorRetinaNet"), 129) == shapes
    assert changes(config(), 1000) is None


def cleaned(*changes, box_format=None):
    """A case whose annotation file was changed in this way."""
    case = case_of(config(), 1)
    return replace(case, data=replace(case.data, cleaning=(Cleaning(changes, box_format),)))


def test_what_cleaning_did_is_found():
    clipped = Change(CLIPPED, "boxes clipped to the image", 75, 100, "annotation 1 of image 1")
    few = Change(DROPPED, "boxes dropped (outside the image)", 1, 200, "annotation 2 of image 1")
    text = Change(CONVERTED, "annotations with 'iscrowd' converted", 100, 100, "annotation 1")
    case = cleaned(text, clipped, few)
    found = spoilt_boxes(case)
    assert found.severity == "warning" and found.numbers == {"count": 75, "total": 100}
    assert "75 of 100 boxes clipped to the image, first: annotation 1" in found.sentence
    assert "outside" not in found.sentence  # of too few boxes
    assert "100 of 100 annotations with 'iscrowd' converted" in converted_fields(case).sentence
    assert converted_fields(case).severity == "note"
    assert box_format(case) is None
    assert spoilt_boxes(cleaned()) is converted_fields(cleaned()) is None


def test_boxes_of_another_format_are_an_error():
    clipped = Change(CLIPPED, "boxes clipped to the image", 75, 100, "annotation 1 of image 1")
    found = box_format(cleaned(clipped, box_format=CORNERS))
    assert found.severity == "error"
    assert "look like (x0, y0, x1, y1), two corners" in found.sentence
    assert "(75 of 100 boxes clipped to the image)" in found.sentence
