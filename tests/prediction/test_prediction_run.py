import os
import signal

import pytest
import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model
from tiny_run import write_config, write_data_set

from anchor_heads import get_cfg
from anchor_heads.prediction.run import load_predictor, number_of_classes, predict, stop_on_ctrl_c
from anchor_heads.prediction.sources import find_sources


class Record:
    """An output that remembers what it is given."""

    def __init__(self):
        self.frames = []

    def write(self, frame):
        self.frames.append((frame.source.name, frame.index, round(float(frame.image.mean()) / 20)))


def test_every_image_and_frame_once_and_in_order(tmp_path, write_image, write_video, detections):
    files = [write_image(tmp_path / "b.png", 100), write_video(tmp_path / "c.avi", num_frames=2)]
    files.append(write_image(tmp_path / "a.png", 180))
    record = Record()
    summary = predict(
        lambda _: {"instances": detections}, find_sources(files), [record], Metadata()
    )
    assert record.frames == [
        ("b.png", None, 5),
        ("c.avi", 0, 0),
        ("c.avi", 1, 1),
        ("a.png", None, 9),
    ]
    assert (summary.num_images, summary.num_frames) == (2, 2)
    assert summary.unreadable == [] and summary.stopped_at is None


def test_what_cannot_be_read_is_named_and_passed_over(tmp_path, write_image, detections, capsys):
    files = [write_image(tmp_path / f"{i}.png") for i in range(3)]
    (tmp_path / "1.png").write_text("text")
    record = Record()
    summary = predict(
        lambda _: {"instances": detections}, find_sources(files), [record], Metadata()
    )
    assert [name for name, *_ in record.frames] == ["0.png", "2.png"]
    assert summary.unreadable == [files[1]] and summary.num_images == 2
    said = capsys.readouterr().err
    assert f"Cannot read the image {files[1]}" in said
    assert "3/3" in said  # the progress bar comes to its end


def test_ctrl_c_ends_the_run_after_the_image_at_hand(tmp_path, write_image, detections):
    sources = find_sources([write_image(tmp_path / f"{i}.png") for i in range(5)])
    record = Record()

    def predictor(image):
        if len(record.frames) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return {"instances": detections}

    before = signal.getsignal(signal.SIGINT)
    with stop_on_ctrl_c() as stop:
        summary = predict(predictor, sources, [record], Metadata(), stop=stop)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(record.frames) == summary.num_images == 2
    assert summary.stopped_at is sources[1]


def tiny_model(folder, meta_architecture, *overrides):
    folder.mkdir()
    write_data_set(folder, num_images=1)
    cfg = get_cfg()
    cfg.merge_from_file(write_config(folder, meta_architecture, overrides))
    return cfg, build_model(cfg)


def test_numbers_of_classes(tmp_path):
    models = {
        "GuidedAnchorRetinaNet": 2,
        "DynamicAnchorRetinaNet": 2,
        "FreeAnchorRetinaNet": 2,
        "GeneralizedRCNN": 2,
        "ProposalNetwork": None,
    }
    for name, number in models.items():
        _, model = tiny_model(tmp_path / name, name)
        assert number_of_classes(model) == number
    with pytest.raises(TypeError, match="A Linear neither detects"):
        number_of_classes(torch.nn.Linear(1, 1))


def test_weights_must_be_there_and_fit(tmp_path, detections):
    cfg, model = tiny_model(tmp_path / "model", "FreeAnchorRetinaNet")
    weights = tmp_path / "model.pth"
    with torch.no_grad():
        model.head.cls_score.bias.fill_(1.25)
    torch.save({"model": model.state_dict()}, weights)
    cfg.MODEL.WEIGHTS = "of/another.pth"
    cfg.freeze()
    assert (load_predictor(cfg, str(weights)).model.head.cls_score.bias == 1.25).all()
    with pytest.raises(FileNotFoundError, match="no file .*/none.pth"):
        load_predictor(cfg, "none.pth")
    torch.save({"model": {"other": torch.zeros(1)}}, weights)
    with pytest.raises(ValueError, match="Nothing in .* fits the model"):
        load_predictor(cfg, str(weights))


def test_a_model_with_precomputed_proposals_cannot_predict(tmp_path):
    overrides = ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
    cfg, model = tiny_model(tmp_path / "model", "GeneralizedRCNN", *overrides)
    with pytest.raises(ValueError, match="needs precomputed proposals"):
        load_predictor(cfg, "")
