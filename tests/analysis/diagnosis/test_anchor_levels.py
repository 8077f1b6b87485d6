import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, pairwise_iou
from made_case import config, made_objects, proposal_config, square

from anchor_heads import model_zoo
from anchor_heads.analysis.diagnosis import anchor_levels
from anchor_heads.analysis.diagnosis.anchor_levels import build_anchor_levels
from anchor_heads.analysis.diagnosis.model_kind import model_kind
from anchor_heads.projects.dynamic_anchor.targets import objects_by_center
from anchor_heads.projects.guided_anchoring.targets import object_levels

SIZE = (200, 136)  # no multiple of the strides


def levels_of(cfg):
    return build_anchor_levels(cfg, model_kind(cfg))


def random_objects(number=300):
    rng = np.random.default_rng(0)
    sides = 2 ** rng.uniform(1, 7, (number, 2))
    corners = rng.uniform(0, 1, (number, 2)) * (np.array(SIZE) - sides)
    return made_objects(np.concatenate([corners, corners + sides], axis=1).tolist(), size=SIZE)


def map_sizes(strides):
    return [tuple(-(-side // stride) for side in SIZE[::-1]) for stride in strides]


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_best_iou_is_that_with_all_anchors_of_the_image(offset):
    ratios = ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 3.0]]]
    levels = levels_of(config("RetinaNet", *ratios, "MODEL.ANCHOR_GENERATOR.OFFSET", offset))
    generator = DefaultAnchorGenerator(
        sizes=[[32], [64], [128]], aspect_ratios=ratios[1], strides=[8, 16, 32], offset=offset
    )
    objects = random_objects()
    maps = [torch.zeros(1, 1, *size) for size in map_sizes(levels.strides)]
    boxes = Boxes(torch.from_numpy(objects.boxes))
    expected = [pairwise_iou(boxes, anchors).amax(dim=1) for anchors in generator(maps)]
    np.testing.assert_allclose(levels.best_iou(objects), torch.stack(expected, dim=1), atol=1e-5)


def test_dense_anchors_learn_what_they_overlap_enough_or_best():
    levels = levels_of(config())  # IoU below 0.4 is background, 0.5 is an object
    objects = made_objects([square(84, 20), square(84, 32), square(84, 45), square(304, 203)])
    reach = levels.reach(objects)
    assert reach.reached.tolist() == [False, True, True, False]
    # 45 has IoU 0.506 with 32; with 64, whose nearest centre is 4 pixels away, 0.49.
    assert reach.levels.tolist() == [
        [True, False, False],
        [True, False, False],
        [True, False, False],
        [False, False, True],
    ]
    assert reach.num_unreached == 2 and reach.objects_per_level.tolist() == [3, 0, 1]


def test_objects_are_judged_in_parts_as_they_are_at_once(monkeypatch):
    levels, objects = levels_of(config()), random_objects()
    at_once = levels.reach(objects)
    monkeypatch.setattr("anchor_heads.analysis.diagnosis.training_data.CHUNK", 7)
    in_parts = levels.reach(objects)
    for a, b in zip(at_once, in_parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_guided_anchoring_gives_objects_the_levels_that_its_targets_give_them():
    levels = levels_of(config("GuidedAnchorRetinaNet"))
    objects = random_objects()
    expected = object_levels(torch.from_numpy(objects.boxes), [32, 64, 128])
    assert set(expected.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(levels.reach(objects).levels.argmax(axis=1), expected)
    assert (levels.reach(objects).levels.sum(axis=1) == 1).all()


def test_guided_anchoring_reaches_what_shape_samples_overlap_enough():
    objects = made_objects([square(84, 17.5), square(84, 17.6), square(84, 20.2), square(84, 20.3)])
    for cfg, reached in (
        (proposal_config("GuidedAnchorRPN"), [False, True, True, True]),  # SHAPE_MIN_IOU 0.3
        (config("GuidedAnchorRetinaNet"), [False, False, False, True]),  # 0.4
    ):
        assert levels_of(cfg).reach(objects).reached.tolist() == reached


@pytest.mark.parametrize("radius", [1.0, 2.0, 0.3])
def test_dynamic_anchor_learns_where_its_targets_do(radius):
    cfg = config("DynamicAnchorRetinaNet", "MODEL.DYNAMIC_ANCHOR.CENTER_RADIUS", radius)
    levels, objects = levels_of(cfg), random_objects()
    learned = levels.reach(objects).levels
    for i, box in enumerate(torch.from_numpy(objects.boxes)):
        for level, (size, stride, limits) in enumerate(
            zip(map_sizes(levels.strides), levels.strides, levels.distances, strict=True)
        ):
            at = objects_by_center(box[None], size, stride, 0.5, radius * stride, limits)
            assert learned[i, level] == (at == 0).any()
    assert learned.any(axis=0).all() and not learned.any(axis=1).all()


def test_dynamic_anchor_levels_are_bounded_by_half_their_squares():
    levels = levels_of(proposal_config("DynamicAnchorRPN"))
    assert levels.distances == [(-np.inf, 16), (16, 32), (32, np.inf)]


def test_larger_images_have_more_anchors():
    levels = levels_of(config("RetinaNet", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 2.0]]))
    anchors = levels.anchors_per_image(np.array([[64, 64], [65, 64]], np.float32))
    assert anchors.tolist() == [2 * (64 + 16 + 4), 2 * (72 + 20 + 6)]


def test_models_without_upright_anchors_have_no_levels():
    rotated = ["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"]
    stored = proposal_config("PrecomputedProposals", architecture="GeneralizedRCNN")
    for cfg in (config("SemanticSegmentor"), stored, config("RetinaNet", *rotated)):
        assert levels_of(cfg) is None


@pytest.mark.parametrize(
    "name, kind, levels, strides",
    [
        ("free_anchor/free_anchor_R_50_FPN_1x", "AnchorLevels", 5, [8, 16, 32, 64, 128]),
        ("guided_anchoring/ga_rpn_R_50_FPN_1x", "GuidedLevels", 5, [4, 8, 16, 32, 64]),
        ("dynamic_anchor/da_faster_rcnn_R_50_FPN_1x", "DynamicLevels", 5, [4, 8, 16, 32, 64]),
        ("quick_start/faster_rcnn", "AnchorLevels", 4, [4, 8, 16, 32]),
    ],
)
def test_levels_of_shipped_configs(name, kind, levels, strides):
    found = levels_of(model_zoo.get_config(name))
    assert type(found) is getattr(anchor_levels, kind)
    assert found.strides == strides and len(found.sizes) == len(found.aspect_ratios) == levels


def test_a_class_derived_from_a_method_counts_as_the_method():
    from detectron2.modeling import META_ARCH_REGISTRY

    base = META_ARCH_REGISTRY.get("DynamicAnchorRetinaNet")
    name = "DerivedForDiagnosis"
    if name not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(type(name, (base,), {}))
    assert model_kind(config(name)).strategy == "DynamicAnchor"
