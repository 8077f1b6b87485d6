"""Suggested anchors and input sizes do what they are suggested for."""

from dataclasses import replace

from made_case import FITTING, RATIOS, SIZES, case_of, config, proposal_config, rectangle, square

from anchor_heads.analysis.diagnosis.findings import find


def suggestion(name, *boxes, cfg=None):
    return find(case_of(*boxes, cfg=cfg))[name].suggestion


def test_sizes_reach_small_objects():
    cfg = config()
    boxes = [square(84, 16), square(100, 14), *FITTING]
    suggested = suggestion("small_objects", *boxes, cfg=cfg)
    assert suggested.effect.startswith("With this 0 of them would not be reached, and 0 of all")
    assert list(suggested.changes) == [SIZES]
    cfg.merge_from_list([SIZES, suggested.changes[SIZES]])
    assert "small_objects" not in find(case_of(*boxes, cfg=cfg))


def test_sizes_reach_large_objects():
    changes = suggestion("large_objects", square(304, 203), *FITTING).changes
    assert list(changes) == [SIZES] and changes[SIZES][-1][0] > 128


def test_levels_may_share_their_sizes():
    cfg = config("RetinaNet", SIZES, [[32, 64]])
    boxes = [square(84, 16), square(328, 64)]
    sizes = suggestion("small_objects", *boxes, cfg=cfg).changes[SIZES]
    assert len(sizes) == 3 and 12 < sizes[0][0] < 26
    cfg.merge_from_list([SIZES, sizes])
    assert "small_objects" not in find(case_of(*boxes, cfg=cfg))


def test_input_reaches_objects_that_no_sizes_do():
    # Between the locations of the finest level, at a distance of 4 pixels along both axes.
    cfg = config("RetinaNet", "INPUT.MIN_SIZE_TRAIN", (640, 800))
    changes = suggestion("small_objects", *[square(88, 5)] * 9, *FITTING, cfg=cfg).changes
    sides = changes["INPUT.MIN_SIZE_TRAIN"]
    factor = sides[0] / 640
    assert factor > 1 and sides == (640 * factor, 800 * factor)
    assert changes["INPUT.MIN_SIZE_TEST"] == 800 * factor
    assert changes["INPUT.MAX_SIZE_TRAIN"] == round(1333 * factor)


def test_images_are_enlarged_to_at_most_twice_what_is_stored():
    case = case_of(*[square(88, 5)] * 9, *FITTING)
    stored_small = replace(case, data=replace(case.data, scale=2.0))
    assert "INPUT.MIN_SIZE_TRAIN" in find(case)["small_objects"].suggestion.changes
    assert find(stored_small)["small_objects"].suggestion.changes == {SIZES: None}


def test_objects_that_nothing_tried_reaches_get_no_values():
    suggested = suggestion("small_objects", *[square(88, 1)] * 9, *FITTING)
    assert suggested.changes == {SIZES: None}
    assert suggested.effect == (
        "Other anchor sizes and images up to 2 times as large do not reach most of them."
    )


def test_aspect_ratios_are_added():
    tall, wide = rectangle(328, 64 / 1.76, 64 * 1.76), rectangle(328, 128, 32)
    suggested = suggestion("aspect_ratios", tall, wide, wide, *FITTING)
    assert suggested.changes == {RATIOS: [[0.25, 1.0, 3.1]]}
    assert suggested.effect.startswith("With this 0 of them would not be reached, and 0")
    cfg = config("RetinaNet", RATIOS, [[1.0], [1.1], [1.0]])  # those of levels are kept apart
    changes = suggestion("aspect_ratios", wide, *FITTING, cfg=cfg).changes
    assert changes == {RATIOS: [[0.25, 1], [0.25, 1.1], [0.25, 1]]}


def test_levels_without_objects_are_left_out_at_the_ends():
    def changes(*boxes, cfg=None):
        return suggestion("levels_without_objects", *boxes, cfg=cfg).changes

    expected = {"MODEL.RETINANET.IN_FEATURES": ["p3", "p4"], SIZES: [[32], [64]]}
    assert changes(*FITTING[:2]) == expected
    coarse = changes(*FITTING[1:], cfg=proposal_config("GuidedAnchorRPN"))
    assert coarse["MODEL.RPN.IN_FEATURES"] == ["p4", "p5"]
    assert changes(FITTING[0], FITTING[2]) == {SIZES: None}  # none between others


def test_sizes_are_suggested_where_most_levels_are_without_objects():
    cfg = config("DynamicAnchorRetinaNet", SIZES, [[128], [256], [512]])
    boxes = [square(100 + i, 12 + 2 * i) for i in range(25)]
    finding = find(case_of(*boxes, cfg=cfg))["levels_without_objects"]
    assert finding.severity == "warning" and finding.numbers == {"count": 2, "total": 3}
    assert finding.suggestion.effect == "With this 0 of 3 levels would have no object."
    cfg.merge_from_list([SIZES, finding.suggestion.changes[SIZES]])
    assert "levels_without_objects" not in find(case_of(*boxes, cfg=cfg))
