"""supervision and SAHI with the models of this package, as docs/other_packages.md shows it."""

import cv2
import numpy as np
import pytest
import torch
from tiny_run import write_model

from anchor_heads import get_cfg
from anchor_heads.predictor import load_predictor

ALL_SCORES = ["MODEL.RETINANET.SCORE_THRESH_TEST", 0.0]
MODELS = ["FreeAnchorRetinaNet", "GuidedAnchorRetinaNet", "DynamicAnchorRetinaNet"]


@pytest.fixture
def config(tmp_path):
    """Path of the config of a tiny model that knows the names of its classes."""

    def write(name):
        path = write_model(tmp_path, name, ALL_SCORES)
        checkpoint = torch.load(tmp_path / "model.pth")
        names = {"class_names": ["square", "bar"], "category_ids": [1, 2]}
        torch.save(checkpoint | names, tmp_path / "model.pth")
        return path

    return write


@pytest.mark.parametrize("name", MODELS)
def test_supervision_reads_detections_and_draws_a_video(config, tmp_path, name):
    supervision = pytest.importorskip("supervision")
    cfg = get_cfg()
    cfg.merge_from_file(config(name))
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    predictor, categories = load_predictor(cfg)
    output = predictor(cv2.imread(str(tmp_path / "0.png")))
    detections = supervision.Detections.from_detectron2(output)
    found = output["instances"]
    assert len(detections) == len(found) > 0
    assert detections.xyxy.tolist() == found.pred_boxes.tensor.tolist()
    assert detections.confidence.tolist() == found.scores.tolist()
    assert [categories[i]["name"] for i in detections.class_id[:1]][0] in ("square", "bar")

    writer = cv2.VideoWriter(
        str(tmp_path / "in.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48)
    )
    for _ in range(3):
        writer.write(cv2.resize(cv2.imread(str(tmp_path / "0.png")), (64, 48)))
    writer.release()
    boxes = supervision.BoxAnnotator()

    def draw(frame, index):
        return boxes.annotate(
            frame.copy(), supervision.Detections.from_detectron2(predictor(frame))
        )

    supervision.process_video(str(tmp_path / "in.avi"), str(tmp_path / "out.mp4"), callback=draw)
    assert supervision.VideoInfo.from_video_path(str(tmp_path / "out.mp4")).total_frames == 3


@pytest.mark.parametrize("name", MODELS)
def test_sahi_predicts_on_slices(config, tmp_path, name):
    sahi = pytest.importorskip("sahi.predict")
    from anchor_heads.sahi import AnchorHeadsDetectionModel

    config_file = config(name)
    model = AnchorHeadsDetectionModel(
        model_path=str(tmp_path / "model.pth"),
        config_path=config_file,
        device="cpu",
        confidence_threshold=0.0,
    )
    assert model.category_mapping == {"0": "square", "1": "bar"} and model.num_categories == 2
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "0.png")), cv2.COLOR_BGR2RGB)
    whole = sahi.get_prediction(image, model).object_prediction_list
    cfg = get_cfg()
    cfg.merge_from_file(config_file)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    found = load_predictor(cfg)[0](image[:, :, ::-1])["instances"]
    assert len(whole) == len(found) > 0
    assert max(x.score.value for x in whole) == pytest.approx(float(found.scores.max()))
    large = np.tile(image, (2, 2, 1))
    sliced = sahi.get_sliced_prediction(
        large, model, slice_height=48, slice_width=64, perform_standard_pred=False, verbose=0
    ).object_prediction_list
    assert {x.category.name for x in sliced} <= {"square", "bar"}
    assert max(x.bbox.maxx for x in sliced) > 64 and max(x.bbox.maxy for x in sliced) > 48
