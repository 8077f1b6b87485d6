"""All anchors of an image with their scores, on tiny models with random weights."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from tiny_run import write_config

from anchor_heads import get_cfg
from anchor_heads.anchor_generation.inspection import anchor_source
from anchor_heads.anchor_generation.ranked_anchors import ranked_anchors
from anchor_heads.modeling.model_parts import anchor_head, head_features, preprocess

SIZE = (64, 64)  # maps of 8 x 8, 4 x 4 and 2 x 2
METHODS = ("", "FreeAnchor", "GuidedAnchor", "DynamicAnchor")


def tiny_model(folder, meta_architecture, overrides=()):
    """A model whose head says something else at each location, and hardly moves boxes."""
    cfg = get_cfg()
    cfg.merge_from_file(write_config(folder, meta_architecture, overrides))
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.PIXEL_STD = [100.0] * 3
    model = build_model(cfg).eval()
    for name, parameter in anchor_head(model).named_parameters():
        moves = any(x in name for x in ("delta", "bbox", "shape"))
        torch.nn.init.normal_(parameter, std=0.002 if moves else 0.05)
    return model


@torch.no_grad()
def anchors_of(model, image):
    features = head_features(model, preprocess(model, image))
    predictions = anchor_head(model)(features)
    return ranked_anchors(anchor_source(model), features, predictions), predictions


@pytest.fixture
def image():
    return torch.rand(3, *SIZE) * 255


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_the_best_score_is_that_of_the_best_detection(tmp_path, image, method):
    model = tiny_model(tmp_path, f"{method}RetinaNet")
    levels, _ = anchors_of(model, image)
    (output,) = model([{"image": image}])
    best = max(float(x.scores.max()) for x in levels)
    assert best == pytest.approx(float(output["instances"].scores[0]), rel=1e-5)
    assert len(torch.cat([x.scores for x in levels]).unique()) > 50


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_the_best_score_is_that_of_the_best_proposal(tmp_path, image, method):
    overrides = ["MODEL.PROPOSAL_GENERATOR.NAME", f"{method}RPN"]
    model = tiny_model(tmp_path, "ProposalNetwork", overrides)
    levels, _ = anchors_of(model, image)
    (output,) = model([{"image": image}])
    best = max(float(x.scores.max()) for x in levels)
    expected = output["proposals"].objectness_logits[0].sigmoid()
    assert best == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["RetinaNet", "FreeAnchorRetinaNet"])
def test_dense_anchors_are_the_generators(tmp_path, image, name):
    model = tiny_model(tmp_path, name)
    levels, (logits, _) = anchors_of(model, image)
    assert [x.level for x in levels] == ["p3", "p4", "p5"]
    assert [x.num_locations for x in levels] == [64, 16, 4]
    assert [x.num_kept for x in levels] == [64, 16, 4]
    anchors = model.anchor_generator(logits)
    for level, expected, x in zip(levels, anchors, logits, strict=True):
        assert torch.equal(level.boxes, expected.tensor)
        # The last of the 3 anchors at row 1, column 0 has the last 2 of the 6 channels.
        row = 3 * x.shape[3] + 2
        assert float(level.scores[row]) == pytest.approx(float(x[0, 4:, 1, 0].max().sigmoid()))


def test_guided_anchors_are_those_that_pass(tmp_path, image):
    model = tiny_model(tmp_path, "GuidedAnchorRetinaNet")
    _, guides = anchors_of(model, image)
    maps = [guide.location.sigmoid().flatten() for guide in guides]
    model.guided_anchoring.location_thresh = threshold = float(torch.cat(maps).median())
    levels, _ = anchors_of(model, image)
    passing = [x >= threshold for x in maps]
    assert 0 < sum(int(x.sum()) for x in passing) < 84
    everywhere = model.guided_anchoring.anchors(guides)
    for level, mask, anchors in zip(levels, passing, everywhere, strict=True):
        assert level.num_kept == mask.sum() and level.num_locations == len(mask)
        torch.testing.assert_close(level.boxes, anchors[0][mask])


@pytest.mark.parametrize("name", ["GuidedAnchorRetinaNet", "ProposalNetwork"])
def test_there_may_be_none(tmp_path, image, name):
    overrides = ["MODEL.PROPOSAL_GENERATOR.NAME", "GuidedAnchorRPN"]
    overrides += ["MODEL.GUIDED_ANCHOR.LOCATION_THRESH", 1.0]
    levels, _ = anchors_of(tiny_model(tmp_path, name, overrides), image)
    assert [(len(x.boxes), len(x.scores), x.num_kept) for x in levels] == [(0, 0, 0)] * 3
    assert [x.num_locations for x in levels] == [64, 16, 4]


@pytest.mark.parametrize("name", ["DynamicAnchorRetinaNet", "ProposalNetwork"])
def test_dynamic_anchors_are_at_all_locations(tmp_path, image, name):
    overrides = ["MODEL.PROPOSAL_GENERATOR.NAME", "DynamicAnchorRPN"]
    levels, _ = anchors_of(tiny_model(tmp_path, name, overrides), image)
    assert [len(x.boxes) for x in levels] == [64, 16, 4] == [x.num_kept for x in levels]
    # Around the cells' corners, or centres, in the generator's order, by rows.
    centers = Boxes(levels[0].boxes).get_centers()
    step = centers[1] - centers[0]
    torch.testing.assert_close(step, torch.tensor([8.0, 0.0]), atol=1e-4, rtol=0)
