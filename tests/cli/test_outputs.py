import json
import time

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from anchor_heads.cli.inputs import Source, find_sources
from anchor_heads.cli.outputs import CocoJson, Pictures, Window, picture_files
from anchor_heads.data.coco_json import clean_coco_dict

CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "white"}]
IMAGE, CAMERA = Source("folder/a.png", "a.png"), Source("camera 0", "camera_0", 0)


@pytest.fixture
def detections():
    """Two detections: of class 1 with score 0.9, and of class 0 with score 0.3."""
    return Instances(
        (48, 64),
        pred_boxes=Boxes(torch.tensor([[10.0, 20.0, 30.0, 45.0], [0.0, 0.0, 8.0, 4.0]])),
        scores=torch.tensor([0.9, 0.3]),
        pred_classes=torch.tensor([1, 0]),
    )


def image_of(instances, value=0):
    return np.full((*instances.image_size, 3), value, np.uint8)


def written(path, *frames, image_ids=None):
    with CocoJson(str(path), CATEGORIES, image_ids) as results:
        for index, instances in frames:
            results.write(IMAGE, index, image_of(instances), instances)
    return json.loads(path.read_text())


def test_without_image_ids_it_is_a_data_set(tmp_path, detections):
    path = tmp_path / "new" / "predictions.json"
    content = written(path, (None, detections[:0]), (5, detections))
    assert content["categories"] == CATEGORIES
    first = {"id": 1, "file_name": "folder/a.png", "width": 64, "height": 48}
    assert content["images"] == [first, {**first, "id": 2, "frame": 5}]
    best, other = content["annotations"]
    assert best["bbox"] == [10, 20, 20, 25] and best["area"] == 500
    assert best["score"] == pytest.approx(0.9) and best["iscrowd"] == 0
    assert (best["id"], best["image_id"], best["category_id"]) == (1, 2, 7)
    assert (other["id"], other["image_id"], other["category_id"]) == (2, 2, 3)
    assert clean_coco_dict(str(path)) == content  # nothing had to be repaired
    assert len(COCO(str(path)).getAnnIds(imgIds=[2])) == 2


def test_with_image_ids_it_is_a_list_of_results(tmp_path, detections):
    content = written(tmp_path / "results.json", (None, detections), image_ids={IMAGE: 42})
    assert [sorted(x) for x in content] == [["bbox", "category_id", "image_id", "score"]] * 2
    ground_truth = COCO()
    image = {"id": 42, "width": 64, "height": 48}
    ground_truth.dataset = {"info": {}, "images": [image], "categories": CATEGORIES}
    ground_truth.createIndex()
    assert len(ground_truth.loadRes(str(tmp_path / "results.json")).getAnnIds(imgIds=[42])) == 2


def test_no_prediction_at_all(tmp_path):
    content = written(tmp_path / "a.json")
    assert content["images"] == content["annotations"] == []
    assert written(tmp_path / "b.json", image_ids={}) == []


def test_masks_and_keypoints(tmp_path, detections):
    detections.pred_masks = torch.zeros(2, 48, 64, dtype=torch.bool)
    detections.pred_masks[0, 20:30, 10:15] = True
    detections.pred_keypoints = torch.tensor([[[12.5, 22.5, 0.8]], [[1.5, 2.5, 0.1]]])
    best, other = written(tmp_path / "a.json", (None, detections))["annotations"]
    mask = mask_util.decode(best["segmentation"])
    assert mask.shape == (48, 64) and (mask == detections.pred_masks[0].numpy()).all()
    assert best["area"] == 50 and other["area"] == 0
    # COCO counts pixels, Detectron2 measures from the corner of the first; ours stay as they are.
    assert best["keypoints"] == pytest.approx([12, 22, 0.8])
    assert detections.pred_keypoints[0, 0].tolist() == pytest.approx([12.5, 22.5, 0.8])


def test_proposals_have_the_first_category_and_their_logit(tmp_path):
    proposals = Instances(
        (48, 64),
        proposal_boxes=Boxes(torch.tensor([[1.0, 2.0, 4.0, 6.0]])),
        objectness_logits=torch.tensor([-2.5]),
    )
    (result,) = written(tmp_path / "a.json", (None, proposals), image_ids={IMAGE: 1})
    assert result == {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": -2.5}


def test_what_was_predicted_before_an_error_is_kept(tmp_path, detections):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), CocoJson(str(path), CATEGORIES, None) as results:
        results.write(IMAGE, None, image_of(detections), detections)
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert len(json.loads(path.read_text())["annotations"]) == 2
    assert [x.name for x in tmp_path.iterdir()] == ["a.json"]


def test_pictures_are_named_as_their_images():
    paths = ["in/a.jpg", "in/sub/a.jpg", "other/a.jpg", "in/a.xyz", "in/clip.avi"]
    names = ["a.jpg", "sub/a.jpg", "a.jpg", "a.xyz", "clip.avi"]
    sources = [Source(*x) for x in zip(paths, names, strict=True)] + [CAMERA]
    expected = ["a.jpg", "sub/a.jpg", "a_2.jpg", "a.xyz.png", "clip.mp4", "camera_0.mp4"]
    assert list(picture_files(sources, "out").values()) == [f"out/{name}" for name in expected]
    (name,) = picture_files(sources[:1], "out", ending="_anchors.png").values()
    assert name == "out/a_anchors.png"


def unchanged(image, instances):
    return image


def test_images_become_pictures_and_videos_become_videos(tmp_path, detections, write_video):
    videos = find_sources([write_video(tmp_path / f"{i}.avi", fps=8.0) for i in range(2)])
    names = ["out/sub/a.png", "out/0.mp4", "out/1.mp4"]
    files = dict(zip([IMAGE, *videos], [str(tmp_path / x) for x in names], strict=True))
    with Pictures(files, unchanged) as pictures:
        for video in videos:
            for index in range(5):
                pictures.write(video, index, image_of(detections, 40 * index), detections)
        pictures.write(IMAGE, None, image_of(detections), detections)
    assert cv2.imread(files[IMAGE]).shape == (48, 64, 3)
    for video in videos:
        (result,) = find_sources([files[video]])
        assert result.fps == 8
        frames = list(result.frames())
        assert [frame.mean() for frame in frames] == pytest.approx([0, 40, 80, 120, 160], abs=3)


def test_videos_are_of_a_kind_that_browsers_play(tmp_path, detections):
    with Pictures({CAMERA: str(tmp_path / "a.mp4")}, unchanged) as pictures:
        pictures.write(CAMERA, 0, image_of(detections), detections)
    code = int(cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FOURCC))
    names = {"avc1": "H.264", "h264": "H.264", "vp09": "VP9", "VP90": "VP9"}
    assert pictures.codec.startswith(names[code.to_bytes(4, "little").decode()])


def test_odd_sides_lose_a_pixel_in_videos(tmp_path):
    nothing = Instances((321, 331))
    with Pictures({CAMERA: str(tmp_path / "a.mp4")}, unchanged) as pictures:
        pictures.write(CAMERA, 0, image_of(nothing), nothing)
    (video,) = find_sources([str(tmp_path / "a.mp4")])
    assert [frame.shape for frame in video.frames()] == [(320, 330, 3)]


def test_a_recording_takes_as_long_as_the_camera_was_on(tmp_path, detections, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Pictures({CAMERA: str(tmp_path / "a.mp4")}, unchanged) as pictures:
        for index, now in enumerate([100.0, 100.01, 100.5, 102.0]):  # noqa: B007
            pictures.write(CAMERA, index, image_of(detections, 40 * index), detections)
    (video,) = find_sources([str(tmp_path / "a.mp4")])
    values = [round(frame.mean() / 40) for frame in video.frames()]
    # 25 frames per second; the second picture comes too early for a frame of its own.
    assert values == [0] + [2] * 12 + [3] * 38


def test_files_that_cannot_be_written(tmp_path, detections):
    files = {IMAGE: str(tmp_path / "folder.png"), CAMERA: str(tmp_path / "folder.mp4")}
    with Pictures(files, unchanged) as pictures:
        for source, path in files.items():
            (tmp_path / path).mkdir()
            with pytest.raises(OSError, match=f"Cannot write the (picture|video) {path}"):
                pictures.write(source, None, image_of(detections), detections)


def test_a_window_waits_at_images_and_ends_with_q(detections, monkeypatch):
    shown, waits, keys = [], [], [ord(" "), -1, ord("q")]

    def wait_key(milliseconds):
        waits.append(milliseconds)
        return keys.pop(0)

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image.shape))
    monkeypatch.setattr(cv2, "destroyWindow", lambda _: shown.append("closed"))
    monkeypatch.setattr(cv2, "waitKey", wait_key)
    with pytest.raises(KeyboardInterrupt), Window(unchanged) as window:
        for source in (IMAGE, CAMERA, CAMERA, CAMERA):
            window.write(source, None, image_of(detections), detections)
    assert shown == [(48, 64, 3)] * 3 + ["closed"] and waits == [0, 1, 1]


def test_there_may_be_no_window(monkeypatch):
    def no_windows(*_):
        raise cv2.error("not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", no_windows)
    with pytest.raises(RuntimeError, match="needs an OpenCV with windows: opencv-python, not"):
        Window(unchanged).__enter__()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RuntimeError, match="needs a display"):
        Window(unchanged).__enter__()
