"""Proposals that one model stores and another learns from: the two commands, on shapes."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from tiny_run import (
    Record,
    arguments,
    load_weights,
    loggers_as_before,
    read_record,
    train,
    write_config,
)
from tiny_run import write_data_set as write_tiny_data_set

from anchor_heads.data.shapes import make_shapes
from anchor_heads.engine import Trainer, setup

DATA_SETS = ("shapes_train", "shapes_val")
TRAIN_FILE, TEST_FILE = (f"output/ga_rpn/inference/{name}/box_proposals.pkl" for name in DATA_SETS)
GA_RPN = ["MODEL.META_ARCHITECTURE", "ProposalNetwork", "OUTPUT_DIR", "output/ga_rpn"]
STORE = ["MODEL.WEIGHTS", "output/ga_rpn/model_final.pth", "DATASETS.TEST", DATA_SETS]
FAST_RCNN = ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.LOAD_PROPOSALS", True]


class Seen(HookBase):
    """Collects what the model is given, in training and in evaluation."""

    def before_train(self):
        self.images = {True: [], False: []}
        self.trainer.model.register_forward_pre_hook(self.collect)

    def collect(self, model, inputs):
        self.images[model.training] += inputs[0]


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A small shapes data set where the quick start's configs look for it."""
    monkeypatch.chdir(tmp_path)
    make_shapes("datasets/shapes", train=8, val=3)


def read_proposals(file):
    content = pickle.loads(Path(file).read_bytes())
    rows = zip(content["boxes"], content["objectness_logits"], strict=True)
    return dict(zip(content["ids"], rows, strict=True))


def expected_boxes(image, stored, limit):
    """The best stored boxes in the frame of the model's input, as they are and flipped."""
    boxes, logits = stored[image["image_id"]]
    best = torch.from_numpy(boxes[np.argsort(-logits, kind="stable")][:limit])
    height, width = image["image"].shape[-2:]
    x_scale, y_scale = width / image["width"], height / image["height"]
    as_they_are = best * torch.tensor([x_scale, y_scale, x_scale, y_scale])
    x0, y0, x1, y1 = as_they_are.unbind(1)
    return as_they_are, torch.stack([width - x1, y0, width - x0, y1], dim=1)


def is_close(boxes, others):
    return boxes.shape == others.shape and torch.allclose(boxes, others, atol=1e-3)


def test_fast_rcnn_learns_from_the_proposals_that_a_ga_rpn_stores(shapes):
    few_steps = ["SOLVER.MAX_ITER", 2]
    train(arguments("quick_start/ga_faster_rcnn", *GA_RPN, *few_steps))
    store = arguments("quick_start/ga_faster_rcnn", *GA_RPN, *STORE, flags=("--eval-only",))
    with loggers_as_before():
        recall = Trainer.evaluate(setup(store))
    assert set(recall) == set(DATA_SETS)
    stored_train, stored_test = read_proposals(TRAIN_FILE), read_proposals(TEST_FILE)
    assert (len(stored_train), len(stored_test)) == (8, 3)
    stored = [*stored_train.values(), *stored_test.values()]
    assert min(len(boxes) for boxes, _ in stored) > 100

    limits = ["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", 50]
    files = ["DATASETS.PROPOSAL_FILES_TRAIN", (TRAIN_FILE,)]
    files += ["DATASETS.PROPOSAL_FILES_TEST", (TEST_FILE,)]
    sizes = ["INPUT.MIN_SIZE_TRAIN", (120,), "INPUT.MIN_SIZE_TEST", 200]
    options = [*FAST_RCNN, *files, *limits, *sizes, *few_steps, "OUTPUT_DIR", "output/fast_rcnn"]
    seen = Seen()
    trainer = train(arguments("quick_start/faster_rcnn", *options), seen, Record("record.json"))
    assert trainer.model.proposal_generator is None

    flips = []
    assert len(seen.images[True]) == 2 * 4
    for image in seen.images[True]:
        assert min(image["image"].shape[-2:]) == 120
        boxes = image["proposals"].proposal_boxes.tensor
        matches = [is_close(boxes, other) for other in expected_boxes(image, stored_train, 50)]
        assert sum(matches) == 1
        flips.append(matches[1])
    assert set(flips) == {True, False}
    assert len(seen.images[False]) == 3
    for image in seen.images[False]:
        assert min(image["image"].shape[-2:]) == 200
        as_they_are, _ = expected_boxes(image, stored_test, 1000)
        assert is_close(image["proposals"].proposal_boxes.tensor, as_they_are)

    losses = [line["losses"] for line in read_record("record.json")]
    assert len(losses) == 2
    assert all(math.isfinite(value) for step in losses for value in step.values())
    assert {"loss_cls", "loss_box_reg"} <= losses[0].keys()
    assert not {name for name in losses[0] if "rpn" in name or "anchor" in name}
    metrics = Path("output/fast_rcnn/metrics.json").read_text().splitlines()
    assert "bbox/AP" in json.loads(metrics[-1])

    # Fine-tuning: the same from the weights of a detector, here with hardly any learning.
    tuned = ["MODEL.WEIGHTS", "output/fast_rcnn/model_final.pth", "OUTPUT_DIR", "output/tuned"]
    tuned += ["SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 1e-9]
    trainer = train(arguments("quick_start/faster_rcnn", *options, *tuned))
    weights = load_weights("output/fast_rcnn")
    for name, p in trainer.model.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name], rtol=0, atol=1e-6)


def write_tiny_config(folder, without=()):
    """A Fast R-CNN on a tiny data set with stored proposals, on images ``without`` with none."""
    write_tiny_data_set(folder)
    ids = list(range(12))
    boxes = [np.array([[2, 2, 30, 30], [5, 5, 40, 20]] * (i not in without)) for i in ids]
    boxes = [x.astype(np.float32).reshape(-1, 4) for x in boxes]
    logits = [np.arange(len(x), dtype=np.float32) for x in boxes]
    content = {"ids": ids, "boxes": boxes, "objectness_logits": logits, "bbox_mode": 0}
    file = folder / "box_proposals.pkl"
    file.write_bytes(pickle.dumps(content))
    keys = ["DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"]
    files = [item for key in keys for item in (key, (str(file),))]
    return write_config(folder, "GeneralizedRCNN", [*FAST_RCNN, *files])


def test_images_without_any_proposal_are_trained_and_evaluated(tmp_path):
    config = write_tiny_config(tmp_path, without=range(0, 12, 2))
    seen = Seen()
    train(arguments(config), seen)
    for training in (True, False):
        counts = {x["image_id"] % 2: len(x["proposals"]) for x in seen.images[training]}
        assert counts == {0: 0, 1: 2}


def test_a_missing_file_of_proposals_is_said_before_anything_is_built(tmp_path, monkeypatch):
    config = write_tiny_config(tmp_path)
    (tmp_path / "box_proposals.pkl").unlink()
    monkeypatch.setattr(Trainer, "build_model", pytest.fail)
    with loggers_as_before():
        cfg = setup(arguments(config))
        for start in (Trainer, Trainer.evaluate):
            with pytest.raises(FileNotFoundError, match="PROPOSAL_FILES_T.*box_proposals.pkl does"):
                start(cfg)
