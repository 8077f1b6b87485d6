"""What is found, where it begins, and what is suggested."""

from dataclasses import replace

import pytest
from made_case import (
    FITTING,
    RATIOS,
    SIZES,
    case_of,
    config,
    made_case,
    proposal_config,
    rectangle,
    square,
)

from anchor_heads.analysis.diagnosis import Diagnosis
from anchor_heads.analysis.diagnosis.findings import TEXTS, find
from anchor_heads.data.coco_boxes import CORNERS
from anchor_heads.data.coco_json import CLIPPED, CONVERTED, DROPPED, Change, Cleaning

BY_IOU = ["small_objects", "large_objects", "aspect_ratios", "objects_between_locations"]
ONE_LEVEL = ["MODEL.RETINANET.IN_FEATURES", ["p3"], "MODEL.RPN.IN_FEATURES", ["p3"], SIZES, [[32]]]


def unreached(*boxes, cfg=None):
    """The names of the findings about objects that no anchor reaches."""
    return [name for name in find(case_of(*boxes, cfg=cfg)) if name in BY_IOU]


def counted(cfg, *counts, classes=0, **data):
    """The findings about images with so many objects, which fit the anchors."""
    cfg.merge_from_list(ONE_LEVEL)
    return find(made_case(cfg, *[[FITTING[0]] * x for x in counts], classes=classes, **data))


def changes(findings, name):
    """What a finding suggests; None if there is no such finding."""
    return findings[name].suggestion.changes if name in findings else None


# Annotations, classes and images


@pytest.mark.parametrize(
    "architecture, key",
    [
        ("FreeAnchorRetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_number_of_classes(architecture, key):
    finding = counted(config(architecture, key, 80), 1)["number_of_classes"]
    assert finding.severity == "error" and finding.numbers == {"model": 80, "data": 2}
    assert finding.suggestion.changes == {key: 2}
    assert "number_of_classes" not in counted(config(architecture, key, 2), 1)
    assert "number_of_classes" not in counted(config("ProposalNetwork", key, 80), 1)


def test_absent_and_rare_classes():
    def findings(cats, dogs):
        return counted(config(), cats + dogs, classes=[0] * cats + [1] * dogs)

    absent = findings(0, 10)["absent_classes"]
    assert absent.sentence == "1 of 2 classes (50.0 %) have no box and cannot be detected (cat)."
    assert absent.numbers == {"count": 1, "total": 2}
    assert absent.suggestion.changes == {"DATASETS.TRAIN": None}
    rare = findings(10, 9)["rare_classes"]
    assert rare.sentence.endswith("fewer than 10 boxes: too few for a good AP (dog).")
    assert "rare_classes" not in findings(0, 10) and "absent_classes" not in findings(10, 9)
    assert not {"rare_classes", "absent_classes"} & set(findings(10, 10))


def test_images_of_rare_classes_are_sampled_twice_as_often():
    assert changes(counted(config(), *[1] * 100, classes=[1] * 4 + [0] * 96), "rare_classes") == {
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.16,  # sqrt(0.16 / 0.04) = 2
    }


def test_images_without_objects():
    finding = counted(config(), *[1] * 99, left_out=1)["images_without_objects"]
    assert finding.severity == "note" and finding.numbers == {"count": 1, "total": 100}
    assert finding.suggestion.changes == {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False}
    assert "images_without_objects" not in counted(config(), *[1] * 100, left_out=1)


def cleaned(*changes, box_format=None):
    """The findings where the annotation file was changed in this way."""
    case = made_case(config(), [])
    return find(replace(case, data=replace(case.data, cleaning=(Cleaning(changes, box_format),))))


def test_what_cleaning_did_is_found():
    clipped = Change(CLIPPED, "boxes clipped to the image", 75, 100, "annotation 1 of image 1")
    few = Change(DROPPED, "boxes dropped (outside the image)", 1, 200, "annotation 2 of image 1")
    text = Change(CONVERTED, "annotations with 'iscrowd' converted", 100, 100, "annotation 1")
    found = cleaned(text, clipped, few)
    spoilt, converted = found["unusable_annotations"], found["converted_fields"]
    assert spoilt.severity == "warning" and spoilt.numbers == {"count": 75, "total": 100}
    assert "75 of 100 boxes clipped to the image, first: annotation 1" in spoilt.sentence
    assert "outside" not in spoilt.sentence  # of too few boxes
    assert "100 of 100 annotations with 'iscrowd' converted" in converted.sentence
    assert converted.severity == "note" and "box_format" not in found
    assert not {"unusable_annotations", "converted_fields"} & set(cleaned())

    found = cleaned(clipped, box_format=CORNERS)["box_format"]
    assert found.severity == "error" and found.numbers == {"count": 75}
    assert "look like (x0, y0, x1, y1), two corners" in found.sentence
    assert "(75 of 100 boxes clipped to the image)" in found.sentence


# Limits


def test_detection_limit():
    cfg = config("RetinaNet", "TEST.DETECTIONS_PER_IMAGE", 20)
    assert "detection_limit" not in counted(cfg, 20, 3)
    finding = counted(cfg, 21, 51, 3)["detection_limit"]
    assert finding.numbers == {"count": 2, "total": 3}
    assert "(up to 51) than the 20 detections" in finding.sentence
    assert finding.suggestion.changes == {"TEST.DETECTIONS_PER_IMAGE": 100}
    assert counted(cfg, 21, *[1] * 20)["detection_limit"].severity == "note"  # 1 of 21 images
    unlimited = config("GeneralizedRCNN", "TEST.DETECTIONS_PER_IMAGE", -1)
    for other in (unlimited, proposal_config("RPN")):
        assert "detection_limit" not in counted(other, 101)


def test_proposal_limit():
    keys = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 40, "MODEL.RPN.POST_NMS_TOPK_TEST", 30]
    cfg = proposal_config("GuidedAnchorRPN", *keys)
    assert changes(counted(cfg, 30), "proposal_limit") is None
    assert changes(counted(cfg, 31), "proposal_limit") == {keys[2]: 50}
    assert changes(counted(cfg, 41), "proposal_limit") == {keys[0]: 50, keys[2]: 50}
    key = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"
    stored = proposal_config("PrecomputedProposals", key, 30, architecture="GeneralizedRCNN")
    assert changes(counted(stored, 30), "proposal_limit") is None
    assert changes(counted(stored, 31), "proposal_limit") == {key: 50}
    assert changes(counted(config(), 5000), "proposal_limit") is None  # RetinaNet has none


RPN = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 300}  # half of them are positive
ROI_HEADS = {"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 550}  # a quarter


@pytest.mark.parametrize(
    "architecture, generator, expected",
    [
        ("ProposalNetwork", "RPN", RPN),
        ("ProposalNetwork", "FreeAnchorRPN", None),
        ("GeneralizedRCNN", "DynamicAnchorRPN", RPN | ROI_HEADS),
        ("GeneralizedRCNN", "FreeAnchorRPN", ROI_HEADS),
        ("GuidedAnchorRetinaNet", "RPN", {"MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE": 300}),
        ("RetinaNet", "RPN", None),
    ],
)
def test_positives_limit(architecture, generator, expected):
    cfg = proposal_config(generator, architecture=architecture)
    assert changes(counted(cfg, 128), "positives_limit") is None
    assert changes(counted(cfg, 129), "positives_limit") == expected


# Anchors


def test_small_objects():
    # The smallest anchor, 32, has IoU 0.4 with squares of 32 * sqrt(0.4) = 20.24 around its centre.
    finding = find(case_of(square(84, 20.2), square(84, 12), *FITTING))["small_objects"]
    assert finding.severity == "warning" and finding.numbers == {"count": 2, "total": 5}
    assert finding.sentence == (
        "2 of 5 objects (40.0 %) are smaller than 20.2 pixels (square root of area), so that even "
        "the smallest anchor, 32, overlaps them by less than IoU 0.4: only the anchor with "
        "the highest IoU is positive."
    )
    assert unreached(square(84, 20.2), *FITTING) == ["small_objects"]
    assert unreached(square(84, 20.3), *FITTING) == []


def test_large_objects():
    # The largest anchor, 128, has IoU 0.4 with squares of 128 / sqrt(0.4) = 202.4.
    finding = find(case_of(square(304, 203), *FITTING))["large_objects"]
    assert finding.numbers == {"count": 1, "total": 4}
    assert "larger than 202.4 pixels" in finding.sentence and "anchor, 128," in finding.sentence
    assert unreached(square(304, 203), *FITTING) == ["large_objects"]
    assert unreached(square(304, 202), *FITTING) == []


def test_aspect_ratios():
    # A box of the area of a square anchor, k times as wide, has IoU 1 / (2 k - 1) with it.
    tall, wide = rectangle(328, 64 / 1.76, 64 * 1.76), rectangle(328, 128, 32)
    finding = find(case_of(tall, wide, wide, *FITTING))["aspect_ratios"]
    assert finding.numbers == {"count": 3, "total": 6}
    expected = "1 tall ones, 3.1 to 1 in the median, 2 wide ones, 4.0 to 1 in the median"
    assert expected in finding.sentence
    assert unreached(tall, *FITTING) == ["aspect_ratios"]
    assert unreached(rectangle(328, 64 / 1.74, 64 * 1.74), *FITTING) == []


def test_objects_between_locations():
    # One level of stride 32: squares of 32 whose centres are d apart along both axes have an
    # overlap of (32 - d)**2, and IoU 0.4 at d = 7.81.
    cfg = config("RetinaNet", "MODEL.RETINANET.IN_FEATURES", ["p5"], SIZES, [[32]])
    assert unreached(square(304 + 7.9, 32), cfg=cfg) == ["objects_between_locations"]
    assert unreached(square(304 + 7.7, 32), cfg=cfg) == []


@pytest.mark.parametrize(
    "small, total, severity",
    [(1, 101, None), (1, 100, "note"), (4, 81, "note"), (4, 80, "warning")],
)
def test_the_share_of_objects_decides(small, total, severity):
    boxes = [square(84, 20)] * small + [square(84, 32)] * (total - small)
    finding = find(case_of(*boxes, cfg=config("RetinaNet", *ONE_LEVEL))).get("small_objects")
    assert (finding and finding.severity) == severity


@pytest.mark.parametrize(
    "cfg, limit, consequence",
    [
        (config("FreeAnchorRetinaNet"), 20.24, "their bags hold poor candidates only"),
        (config("GuidedAnchorRetinaNet"), 20.24, "they have no shape targets"),
        (proposal_config("RPN"), 17.53, "only the anchor with the highest IoU is positive"),
        (proposal_config("GuidedAnchorRPN"), 17.53, "they have no shape targets"),
    ],
)
def test_each_method_has_its_own_limit(cfg, limit, consequence):
    finding = find(case_of(square(84, limit - 0.1), *FITTING, cfg=cfg))["small_objects"]
    assert finding.numbers["count"] == 1 and finding.sentence.endswith(f": {consequence}.")
    assert unreached(square(84, limit + 0.1), *FITTING, cfg=cfg) == []


def test_objects_without_location():
    # Locations of P3 lie at 4, 12, 20, ...
    cfg = config("DynamicAnchorRetinaNet")
    found = find(case_of((5, 5, 11, 11), *FITTING, cfg=cfg))
    finding = found["objects_without_location"]
    assert finding.numbers == {"count": 1, "total": 4} and not set(BY_IOU) & set(found)
    # Anchors start from the sizes, which suit the others: the image has to be larger.
    assert SIZES not in finding.suggestion.changes
    assert finding.suggestion.changes["INPUT.MIN_SIZE_TRAIN"] == (1000,)
    expected = "With this 0 of them would not be reached, and 0 of all objects, now 1. Images have "
    assert finding.suggestion.effect == expected + "1.56 times as many pixels."
    assert "objects_without_location" not in find(case_of((5, 5, 13, 13), *FITTING, cfg=cfg))
    assert "objects_without_location" not in find(case_of((5, 5, 11, 11)))  # not Dynamic Anchor


def test_levels_without_objects():
    assert "levels_without_objects" not in find(case_of(*FITTING))
    finding = find(case_of(*FITTING[:2]))["levels_without_objects"]
    assert finding.severity == "note" and finding.numbers == {"count": 1, "total": 3}
    assert finding.sentence == ("1 of 3 levels (33.3 %) have no object (p5), only background.")


def test_predicted_anchors_that_start_from_another_shape():
    lines = [rectangle(320, 64, 16)] * 4 + FITTING
    cfg = proposal_config("DynamicAnchorRPN")
    finding = find(case_of(*lines, cfg=cfg))["other_shape_at_the_start"]
    key = "MODEL.DYNAMIC_ANCHOR.BASE_ASPECT_RATIO"
    assert finding.numbers == {"start": 1.0, "median": 0.25}
    assert finding.suggestion.changes[key] == 0.25
    for item in finding.suggestion.changes.items():
        cfg.merge_from_list(list(item))
    assert "other_shape_at_the_start" not in find(case_of(*lines, cfg=cfg))
    assert "other_shape_at_the_start" not in find(case_of(*lines))  # RetinaNet's are preset


def test_guided_anchors_are_counted_from_the_shape_that_they_should_start_from():
    """The samples of the start reach the wide objects, which is said once."""
    lines = [rectangle(320, 320, 32)] * 4
    cfg = config("GuidedAnchorRetinaNet")
    case = case_of(*lines, *FITTING, cfg=cfg)
    assert case.coverage.reached.sum() == 3
    found = find(case)
    start = found["other_shape_at_the_start"].suggestion
    assert start.changes["MODEL.GUIDED_ANCHOR.BASE_ASPECT_RATIO"] == 0.1
    assert not {"aspect_ratios", "objects_between_locations"} & set(found)
    assert start.changes.items() <= Diagnosis(case, found).recipe.items()


@pytest.mark.parametrize(
    "num_fitting, key, other",
    [(3, "INPUT.MIN_SIZE_TRAIN", SIZES), (1, SIZES, "INPUT.MIN_SIZE_TRAIN")],
)
def test_guided_anchors_start_from_the_size_of_most_objects(num_fitting, key, other):
    """Smaller sizes for a few small objects would be a worse start for the others."""
    boxes = [square(100, 12), square(300, 12), *FITTING[:num_fitting]]
    cfg = config("GuidedAnchorRetinaNet")
    finding = find(case_of(*boxes, cfg=cfg))["small_objects"]
    assert finding.numbers["count"] == 2
    assert key in finding.suggestion.changes and other not in finding.suggestion.changes


def test_sizes_for_large_objects_keep_the_finest_level_of_guided_anchors():
    boxes = [square(304, 210), *FITTING]
    finding = find(case_of(*boxes, cfg=config("GuidedAnchorRetinaNet")))["large_objects"]
    changes = finding.suggestion.changes
    assert changes[SIZES][0] == [32] and changes[SIZES][-1][0] > 128


def test_config_of_another_method():
    def suggested(cfg):
        return changes(find(case_of(*FITTING, cfg=cfg)), "config_of_another_method")

    weights = ["MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)]
    mended = {weights[0]: weights[1], "MODEL.RPN.SMOOTH_L1_BETA": 0.11}
    assert suggested(proposal_config("FreeAnchorRPN")) == mended
    assert suggested(proposal_config("FreeAnchorRPN", *weights)) is None
    assert suggested(proposal_config("RPN")) is None
    both = suggested(proposal_config("GuidedAnchorRPN"))  # box deltas and shape samples
    assert {"MODEL.RPN.BBOX_REG_WEIGHTS", SIZES} < set(both)


@pytest.mark.parametrize(
    "key, value, wrong, error",
    [
        (SIZES, [[32], [0], [-16]], "SIZES has 0, -16", None),
        (RATIOS, [[1.0, 0]], "ASPECT_RATIOS has 0", "division"),
        (RATIOS, [[-2.0]], "ASPECT_RATIOS has -2", "math domain"),
    ],
)
def test_impossible_shapes(key, value, wrong, error):
    found = find(case_of(*FITTING, cfg=config("RetinaNet", key, value)))
    finding = found["impossible_shapes"]
    assert finding.severity == "error" and wrong in finding.sentence
    assert finding.suggestion.changes == {key: None}
    assert ("refused_model" in found) == (error is not None)
    assert error is None or error in found["refused_model"].sentence


def test_a_model_that_training_refuses():
    cfg = config("GuidedAnchorRetinaNet", SIZES, [[128], [64], [32]])
    found = find(case_of(*FITTING, cfg=cfg))
    assert found["refused_model"].severity == "error"
    assert "grow from level to level" in found["refused_model"].sentence
    assert not {*BY_IOU, "levels_without_objects"} & set(found)
    assert not {"refused_model", "impossible_shapes"} & set(find(case_of(*FITTING)))


# Learning rate, schedule, input


def of_config(*overrides, architecture="RetinaNet", images=100):
    """The findings about a config, with images that have no objects."""
    return find(made_case(config(architecture, *overrides), *[[]] * images))


@pytest.mark.parametrize(
    "architecture, reference", [("RetinaNet", 0.01), ("GeneralizedRCNN", 0.02)]
)
def test_learning_rate_in_proportion_to_the_batch(architecture, reference):
    def finding(ratio, batch=4):
        rate = ratio * reference * batch / 16
        overrides = ["SOLVER.IMS_PER_BATCH", batch, "SOLVER.BASE_LR", rate]
        return of_config(*overrides, architecture=architecture).get("learning_rate")

    assert [finding(ratio) for ratio in (0.5, 1.0, 2.0)] == [None] * 3
    assert finding(1.0, batch=64) is None
    high, low = finding(2.1), finding(0.4)
    assert (high.severity, low.severity) == ("warning", "note")
    assert high.numbers["ratio"] == pytest.approx(2.1)
    assert high.suggestion.changes == low.suggestion.changes == {"SOLVER.BASE_LR": reference / 4}


def test_adamw_has_rates_of_its_own():
    def suggested(rate):
        found = of_config("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", rate)
        return changes(found, "learning_rate")

    assert suggested(0.002) is None and suggested(0.00001) is None
    assert suggested(0.0021) == {"SOLVER.BASE_LR": 0.0001}


def schedule(iterations, *overrides, images=100, batch=4):
    lengths = ["SOLVER.MAX_ITER", iterations, "SOLVER.IMS_PER_BATCH", batch]
    return of_config(*lengths, *overrides, images=images)


def test_few_epochs():
    assert "few_epochs" not in schedule(75)
    finding = schedule(74, "SOLVER.STEPS", (37,))["few_epochs"]
    assert finding.numbers == {"epochs": 2.96}
    assert finding.suggestion.changes == {"SOLVER.MAX_ITER": 300, "SOLVER.STEPS": (150,)}


def test_many_epochs():
    finding = schedule(90000, "SOLVER.STEPS", (60000, 80000), batch=16, images=200)["many_epochs"]
    assert finding.numbers == {"epochs": 7200}
    assert finding.suggestion.changes == {"SOLVER.MAX_ITER": 5000, "SOLVER.STEPS": (3333, 4444)}
    # 100 epochs where these are more than 5000 iterations.
    cosine = schedule(40000, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", batch=1)
    assert changes(cosine, "many_epochs") == {"SOLVER.MAX_ITER": 10000}
    assert "many_epochs" not in schedule(30000, batch=1)
    assert schedule(30001, batch=1)["many_epochs"].numbers["epochs"] == 300.01
    assert "many_epochs" not in schedule(5000, batch=16, images=10)


@pytest.mark.parametrize("images", [3, 7, 73, 512, 5001])
@pytest.mark.parametrize("batch", [1, 10, 16])
def test_suggested_epochs_are_neither_few_nor_many(images, batch):
    def found(epochs):
        return schedule(90000, "SOLVER.MAX_EPOCHS", epochs, images=images, batch=batch)

    findings = {"few_epochs", "many_epochs"}
    for epochs in (0.5, 2, 685, 100000):
        for name in findings & set(found(epochs)):
            suggested = changes(found(epochs), name)["SOLVER.MAX_EPOCHS"]
            assert not findings & set(found(suggested))


def test_a_length_in_epochs_goes_before_the_iterations():
    """SOLVER.STEPS keep their shares of SOLVER.MAX_ITER, and the warm-up its iterations."""
    key, lengths = "SOLVER.MAX_EPOCHS", ["SOLVER.STEPS", (60000, 80000), "SOLVER.MAX_EPOCHS"]
    assert not {"few_epochs", "many_epochs"} & set(schedule(90000, *lengths, 12))
    few = schedule(90000, *lengths, 2)["few_epochs"]
    assert few.numbers == {"epochs": 2} and few.suggestion.changes == {key: 12.0}
    many = schedule(10, *lengths, 400, batch=1)["many_epochs"]
    assert many.numbers == {"epochs": 400} and many.suggestion.changes == {key: 100.0}
    steps = changes(schedule(900, "SOLVER.STEPS", (900,), key, 12), "steps_after_end")
    assert steps == {"SOLVER.STEPS": (600, 800)}
    warmup = schedule(90000, *lengths, 12, "SOLVER.WARMUP_ITERS", 1000)["long_warmup"]
    assert warmup.numbers == {"warmup": 1000, "iterations": 300}
    assert warmup.suggestion.changes == {"SOLVER.WARMUP_ITERS": 15}


def test_steps_after_end():
    def suggested(*arguments, **options):
        return changes(schedule(*arguments, **options), "steps_after_end")

    key = "SOLVER.STEPS"
    assert suggested(900, key, (900, 60000)) == {key: (600, 800)}
    assert suggested(900, key, (899, 60000)) is None
    # Of the length that the schedule should have.
    assert suggested(9, key, (60000,), images=200) == {key: (400, 533)}
    assert suggested(9000, key, (), "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR") is None


def test_long_warmup():
    key = "SOLVER.WARMUP_ITERS"
    assert "long_warmup" not in schedule(1000, key, 500)
    finding = schedule(1000, key, 501)["long_warmup"]
    assert finding.numbers == {"warmup": 501, "iterations": 1000}
    assert finding.suggestion.changes == {key: 50}
    assert changes(schedule(20, key, 1000, images=200), "long_warmup") == {key: 30}  # of 600


@pytest.mark.parametrize(
    "at_test, sides, suggested",
    [
        (1000, (800,), None),
        (1001, (800,), 800),
        (640, (800,), None),
        (639, (800,), 800),
        (1000, (480, 800), None),
        (300, (480, 640, 800), 640),
        (0, (800,), None),
        (800, (0,), None),
    ],
)
def test_image_size_at_test_time(at_test, sides, suggested):
    found = of_config("INPUT.MIN_SIZE_TEST", at_test, "INPUT.MIN_SIZE_TRAIN", sides)
    expected = suggested and {"INPUT.MIN_SIZE_TEST": suggested}
    assert changes(found, "size_at_test") == expected


def test_frozen_random_layers():
    weights, frozen, name = "MODEL.WEIGHTS", "MODEL.BACKBONE.FREEZE_AT", "frozen_random_layers"
    finding = of_config(weights, "", frozen, 2)[name]
    assert finding.severity == "error" and finding.numbers == {"stages": 2}
    assert finding.suggestion.changes == {frozen: 0, "MODEL.RESNETS.NORM": "BN"}
    timm = ["MODEL.BACKBONE.NAME", "build_timm_fpn_p6_backbone"]  # with timm's own weights
    random = [*timm, "MODEL.TIMM.PRETRAINED", False, weights, "", frozen, 2]
    changed = {frozen: 0, "MODEL.TIMM.NORM_EVAL": False}
    assert changes(of_config(*random), name) == changed
    for others in ([weights, "", frozen, 0], [weights, "model.pth"], [*timm, weights, ""]):
        assert name not in of_config(frozen, 2, *others)


def test_severe_findings_come_first_and_each_has_its_text():
    found = of_config("MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 2, "SOLVER.MAX_ITER", 3)
    severities = [finding.severity for finding in found.values()]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert len(set(severities)) > 1 and set(found) < set(TEXTS)
