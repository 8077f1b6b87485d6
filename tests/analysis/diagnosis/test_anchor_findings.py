import pytest
from made_case import config, made_case, proposal_config, rectangle, square

from anchor_heads.analysis.diagnosis.anchor_findings import (
    aspect_ratios,
    config_of_another_method,
    crowded_images,
    impossible_shapes,
    large_objects,
    levels_without_objects,
    objects_between_locations,
    objects_without_location,
    other_shape_at_the_start,
    refused_model,
    small_objects,
)

SIZES, RATIOS = "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
BY_IOU = (small_objects, large_objects, aspect_ratios, objects_between_locations)
# Boxes that one anchor fits exactly, on P3, P4 and P5.
FITTING = [square(84, 32), square(328, 64), square(304, 128)]


def found(case):
    """The names of the findings about unreached objects."""
    return [finding.__name__ for finding in BY_IOU if finding(case)]


def case_of(*boxes, cfg=None):
    return made_case(cfg or config(), list(boxes))


def test_small_objects():
    # The smallest anchor, 32, has IoU 0.4 with squares of 32 * sqrt(0.4) = 20.24 around its centre.
    finding = small_objects(case_of(square(84, 20.2), square(84, 12), *FITTING))
    assert finding.severity == "warning"
    assert finding.numbers == {"count": 2, "total": 5}
    assert finding.sentence == (
        "2 of 5 objects (40.0 %) are smaller than 20.2 pixels (square root of area), so that even "
        "the smallest anchor, 32, overlaps them by less than IoU 0.4: only the one anchor that "
        "overlaps each most learns it."
    )
    assert found(case_of(square(84, 20.2), *FITTING)) == ["small_objects"]
    assert found(case_of(square(84, 20.3), *FITTING)) == []


def test_suggested_sizes_reach_small_objects():
    cfg = config()
    boxes = [square(84, 16), square(100, 14), *FITTING]
    suggestion = small_objects(case_of(*boxes, cfg=cfg)).suggestion
    assert suggestion.effect.startswith("With this 0 of them would not be reached, and 0 of all")
    assert list(suggestion.changes) == [SIZES]
    cfg.merge_from_list([SIZES, suggestion.changes[SIZES]])
    assert found(case_of(*boxes, cfg=cfg)) == []


def test_levels_may_share_their_sizes():
    cfg = config("RetinaNet", SIZES, [[32, 64]])
    case = case_of(square(84, 16), square(328, 64), cfg=cfg)
    sizes = small_objects(case).suggestion.changes[SIZES]
    assert len(sizes) == 3 and 12 < sizes[0][0] < 26
    cfg.merge_from_list([SIZES, sizes])
    assert found(case_of(square(84, 16), square(328, 64), cfg=cfg)) == []


def test_suggested_input_reaches_objects_that_no_sizes_do():
    # Between the locations of the finest level, at a distance of 4 pixels along both axes.
    cfg = config("RetinaNet", "INPUT.MIN_SIZE_TRAIN", (640, 800))
    case = case_of(*[square(88, 5)] * 9, *FITTING, cfg=cfg)
    suggestion = small_objects(case).suggestion
    sides = suggestion.changes["INPUT.MIN_SIZE_TRAIN"]
    factor = sides[0] / 640
    assert factor > 1 and sides == (640 * factor, 800 * factor)
    assert suggestion.changes["INPUT.MIN_SIZE_TEST"] == 800 * factor
    assert suggestion.changes["INPUT.MAX_SIZE_TRAIN"] == round(1333 * factor)


def test_objects_that_nothing_tried_reaches_get_no_values():
    suggestion = small_objects(case_of(*[square(88, 1)] * 9, *FITTING)).suggestion
    assert suggestion.changes == {SIZES: None}
    assert suggestion.effect == (
        "Other anchor sizes and images up to 3 times as large do not reach most of them."
    )


def test_large_objects():
    # The largest anchor, 128, has IoU 0.4 with squares of 128 / sqrt(0.4) = 202.4.
    finding = large_objects(case_of(square(304, 203), *FITTING))
    assert finding.numbers == {"count": 1, "total": 4}
    assert "larger than 202.4 pixels" in finding.sentence and "anchor, 128," in finding.sentence
    sizes = finding.suggestion.changes[SIZES]
    assert sizes[-1][0] > 128 and list(finding.suggestion.changes) == [SIZES]
    assert found(case_of(square(304, 203), *FITTING)) == ["large_objects"]
    assert found(case_of(square(304, 202), *FITTING)) == []


def test_aspect_ratios():
    # A box of the area of a square anchor, k times as wide, has IoU 1 / (2 k - 1) with it.
    tall, wide = rectangle(328, 64 / 1.76, 64 * 1.76), rectangle(328, 128, 32)
    finding = aspect_ratios(case_of(tall, wide, wide, *FITTING))
    assert finding.numbers == {"count": 3, "total": 6}
    expected = "1 tall ones, 3.1 to 1 in the median, 2 wide ones, 4.0 to 1 in the median"
    assert expected in finding.sentence
    assert finding.suggestion.changes == {
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.25, 1.0, 3.1]]
    }
    assert finding.suggestion.effect.startswith("With this 0 of them would not be reached, and 0")
    assert found(case_of(tall, *FITTING)) == ["aspect_ratios"]
    assert found(case_of(rectangle(328, 64 / 1.74, 64 * 1.74), *FITTING)) == []


def test_aspect_ratios_of_each_level_are_kept_apart():
    keys = ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0], [1.1], [1.0]]]
    case = case_of(rectangle(328, 128, 32), *FITTING, cfg=config("RetinaNet", *keys))
    assert aspect_ratios(case).suggestion.changes[keys[0]] == [[0.25, 1], [0.25, 1.1], [0.25, 1]]


def test_objects_between_locations():
    # One level of stride 32: squares of 32 whose centres are d apart along both axes have an
    # overlap of (32 - d)**2, and IoU 0.4 at d = 7.81.
    cfg = config("RetinaNet", "MODEL.RETINANET.IN_FEATURES", ["p5"], SIZES, [[32]])
    finding = objects_between_locations(case_of(square(304 + 7.9, 32), square(304, 32), cfg=cfg))
    assert finding.numbers == {"count": 1, "total": 2}
    assert found(case_of(square(304 + 7.9, 32), cfg=cfg)) == ["objects_between_locations"]
    assert found(case_of(square(304 + 7.7, 32), cfg=cfg)) == []


@pytest.mark.parametrize(
    "small, total, severity",
    [(1, 101, None), (1, 100, "note"), (4, 81, "note"), (4, 80, "warning")],
)
def test_the_share_of_objects_decides(small, total, severity):
    boxes = [square(84, 20)] * small + [square(84, 32)] * (total - small)
    finding = small_objects(case_of(*boxes))
    assert (finding and finding.severity) == severity


@pytest.mark.parametrize(
    "cfg, limit, consequence",
    [
        (config("FreeAnchorRetinaNet"), 20.24, "their bags hold poor candidates only"),
        (config("GuidedAnchorRetinaNet"), 20.24, "no location learns their shape"),
        (proposal_config("RPN"), 17.53, "only the one anchor that overlaps each most learns it"),
        (proposal_config("GuidedAnchorRPN"), 17.53, "no location learns their shape"),
    ],
)
def test_each_method_has_its_own_limit(cfg, limit, consequence):
    finding = small_objects(case_of(square(84, limit - 0.1), *FITTING, cfg=cfg))
    assert finding.numbers["count"] == 1 and finding.sentence.endswith(f": {consequence}.")
    assert small_objects(case_of(square(84, limit + 0.1), *FITTING, cfg=cfg)) is None


def test_objects_without_location():
    # Locations of P3 lie at 4, 12, 20, ...
    cfg = config("DynamicAnchorRetinaNet")
    case = case_of((5, 5, 11, 11), *FITTING, cfg=cfg)
    finding = objects_without_location(case)
    assert finding.numbers == {"count": 1, "total": 4} and found(case) == []
    # The location at 8 of P4 lies inside; with these sizes P4 is for such objects.
    assert list(finding.suggestion.changes) == [SIZES]
    assert finding.suggestion.changes[SIZES][0][0] / 2 < 6
    assert finding.suggestion.effect.startswith("With this 0 of them would not be reached")
    assert objects_without_location(case_of((5, 5, 13, 13), *FITTING, cfg=cfg)) is None
    assert objects_without_location(case_of((5, 5, 11, 11))) is None  # not Dynamic Anchor


def test_levels_without_objects():
    assert levels_without_objects(case_of(*FITTING)) is None
    finding = levels_without_objects(case_of(*FITTING[:2]))
    assert finding.severity == "note" and finding.numbers == {"count": 1, "total": 3}
    assert finding.sentence == (
        "1 of 3 levels (33.3 %) have no object to learn from (p5), only background."
    )
    assert finding.suggestion.changes == {
        "MODEL.RETINANET.IN_FEATURES": ["p3", "p4"],
        SIZES: [[32], [64]],
    }
    finding = levels_without_objects(case_of(*FITTING[1:], cfg=proposal_config("GuidedAnchorRPN")))
    assert finding.suggestion.changes["MODEL.RPN.IN_FEATURES"] == ["p4", "p5"]
    # No level between others can be left out.
    finding = levels_without_objects(case_of(FITTING[0], FITTING[2]))
    assert finding.suggestion.changes == {SIZES: None}


def test_sizes_are_suggested_where_most_levels_are_without_objects():
    cfg = config("DynamicAnchorRetinaNet", SIZES, [[128], [256], [512]])
    boxes = [square(100 + i, 12 + 2 * i) for i in range(25)]
    finding = levels_without_objects(case_of(*boxes, cfg=cfg))
    assert finding.severity == "warning" and finding.numbers == {"count": 2, "total": 3}
    assert finding.suggestion.effect == "With this 0 of 3 levels would have no object."
    cfg.merge_from_list([SIZES, finding.suggestion.changes[SIZES]])
    assert levels_without_objects(case_of(*boxes, cfg=cfg)) is None


def test_crowded_images():
    # An image of 64 pixels has 64 + 16 + 4 anchors.
    cfg = config("FreeAnchorRetinaNet", "MODEL.FREE_ANCHOR.BAG_SIZE", 28)

    def crowded(number, cfg=cfg):
        return crowded_images(made_case(cfg, [square(32, 32)] * number, size=(64, 64)))

    assert crowded(3) is None
    finding = crowded(4)
    assert (
        finding.numbers == {"count": 1, "total": 1} and "(up to 4 in an image)" in finding.sentence
    )
    assert finding.suggestion.changes == {"MODEL.FREE_ANCHOR.BAG_SIZE": 21}
    assert crowded(4, config()) is None


def test_config_of_another_method():
    weights = ["MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)]
    finding = config_of_another_method(case_of(cfg=proposal_config("FreeAnchorRPN")))
    assert finding.suggestion.changes == {weights[0]: weights[1], "MODEL.RPN.SMOOTH_L1_BETA": 0.11}
    assert config_of_another_method(case_of(cfg=proposal_config("FreeAnchorRPN", *weights))) is None
    assert config_of_another_method(case_of(cfg=proposal_config("RPN"))) is None
    finding = config_of_another_method(case_of(cfg=config("FreeAnchorRetinaNet")))
    assert finding.suggestion.changes["MODEL.RETINANET.SMOOTH_L1_LOSS_BETA"] == 0.11
    finding = config_of_another_method(case_of(cfg=proposal_config("GuidedAnchorRPN")))
    assert "The box deltas" in finding.sentence and "The shape samples" in finding.sentence
    assert {"MODEL.RPN.BBOX_REG_WEIGHTS", SIZES} < set(finding.suggestion.changes)


@pytest.mark.parametrize(
    "key, value, wrong, error",
    [
        (SIZES, [[32], [0], [-16]], "SIZES has 0, -16", None),
        (RATIOS, [[1.0, 0]], "ASPECT_RATIOS has 0", "division"),
        (RATIOS, [[-2.0]], "ASPECT_RATIOS has -2", "math domain"),
    ],
)
def test_impossible_shapes(key, value, wrong, error):
    case = case_of(*FITTING, cfg=config("RetinaNet", key, value))
    finding = impossible_shapes(case)
    assert finding.severity == "error" and wrong in finding.sentence
    assert finding.suggestion.changes == {key: None}
    refused = refused_model(case)
    assert (refused is None) if error is None else (error in refused.sentence)
    assert impossible_shapes(case_of(*FITTING)) is None


def test_a_model_that_training_refuses():
    descending = [[128], [64], [32]]
    case = case_of(*FITTING, cfg=config("GuidedAnchorRetinaNet", SIZES, descending))
    finding = refused_model(case)
    assert finding.severity == "error" and "grow from level to level" in finding.sentence
    assert found(case) == [] and levels_without_objects(case) is None
    assert refused_model(case_of(*FITTING)) is None


def test_no_objects_are_no_finding():
    case = made_case(config(), [])
    assert found(case) == [] and levels_without_objects(case) is None


def test_predicted_anchors_that_start_from_another_shape():
    lines = [rectangle(320, 64, 16)] * 4 + FITTING
    cfg = proposal_config("DynamicAnchorRPN")
    finding = other_shape_at_the_start(case_of(*lines, cfg=cfg))
    key = "MODEL.DYNAMIC_ANCHOR.BASE_ASPECT_RATIO"
    assert finding.numbers == {"start": 1.0, "median": finding.suggestion.changes[key]}
    assert finding.suggestion.changes[key] == 0.25
    for item in finding.suggestion.changes.items():
        cfg.merge_from_list(list(item))
    assert other_shape_at_the_start(case_of(*lines, cfg=cfg)) is None
    assert other_shape_at_the_start(case_of(*lines)) is None  # RetinaNet's are preset
