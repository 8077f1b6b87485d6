import pytest
import torch
from detectron2.structures import Boxes, Instances

from anchor_heads import get_cfg
from anchor_heads.analysis.comparison.measure import AnnotatedImage
from anchor_heads.analysis.comparison.store import Measurements, fingerprint


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folder/measured.jsonl"
    store = Measurements(path)
    assert not path.exists() and list(store) == []
    for i in ("a", 7):
        store.add({"image_id": i, "objects": {"best_iou": [0.1, 0.5012346]}})
    assert store.image_ids == {"a", 7}
    return path


def test_results_are_there_again(path):
    store = Measurements(path)
    assert store.image_ids == {"a", 7}
    assert [x["image_id"] for x in store] == ["a", 7]
    assert [x["objects"]["best_iou"] for x in store] == [[0.1, 0.5012346]] * 2


def test_a_torn_line_is_dropped(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # all but its end
    assert Measurements(path).image_ids == {"a"}
    path.write_bytes(whole + b'{"image_id": 8, "obj')
    store = Measurements(path)
    assert store.image_ids == {"a", 7} and path.read_bytes() == whole
    store.add({"image_id": 8})
    assert [x["image_id"] for x in Measurements(path)] == ["a", 7, 8]


def test_another_file_is_refused_as_it_is(path):
    path.write_text("1,2\n3,4\n")
    with pytest.raises(ValueError, match="line 1: .* Remove the file to measure its images again"):
        Measurements(path)
    assert path.read_text() == "1,2\n3,4\n"


def test_what_changes_the_numbers_changes_the_fingerprint(tmp_path):
    weights = tmp_path / "model.pth"
    weights.write_bytes(b"1")

    def of(box=(0.0, 0, 9, 9), threads=1, overrides=()):
        cfg = get_cfg()
        cfg.MODEL.WEIGHTS = str(weights)
        cfg.merge_from_list([*overrides])
        objects = Instances((9, 9), gt_boxes=Boxes(torch.tensor([box])))
        image = AnnotatedImage({"file_name": "a.png", "image_id": 1}, objects)
        return fingerprint(cfg, [image], {"threads": threads})

    first = of()
    assert first == of() and len(first) == 12
    others = {of(box=(0.0, 0, 9, 8)), of(threads=2), of(overrides=["MODEL.RPN.NMS_THRESH", 0.5])}
    weights.write_bytes(b"2")
    assert len({first, of(), *others}) == 5
