import itertools
import json

import torch
from detectron2.structures import Boxes, Instances

from anchor_heads import get_cfg
from anchor_heads.analysis.comparison.measure import AnnotatedImage
from anchor_heads.analysis.comparison.run import fingerprint, read_measurements


def test_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "measured.jsonl"
    assert read_measurements(path) == {}
    lines = [json.dumps({"image_id": i, "best_iou": [0.1, 0.5012346]}) for i in ("a", 7)]
    path.write_text(f"\n{lines[0]}\n{lines[1][:-3]}\n{lines[1]}\n{lines[0][:9]}")
    measured = read_measurements(path)
    assert list(measured) == ["a", 7] and measured[7]["best_iou"] == [0.1, 0.5012346]


def test_what_changes_the_numbers_changes_the_fingerprint(tmp_path):
    weights = tmp_path / "model.pth"
    weights.write_bytes(b"1")

    days = itertools.count()  # the date does not count

    def of(box=(0.0, 0, 9, 9), threads=1, overrides=()):
        cfg = get_cfg()
        cfg.MODEL.WEIGHTS = str(weights)
        cfg.merge_from_list([*overrides])
        objects = Instances((9, 9), gt_boxes=Boxes(torch.tensor([box])))
        image = AnnotatedImage({"file_name": "a.png", "image_id": 1}, objects)
        return fingerprint(cfg, [image], {"threads": threads, "date": str(next(days))})

    first = of()
    assert first == of() and len(first) == 12
    others = {of(box=(0.0, 0, 9, 8)), of(threads=2), of(overrides=["MODEL.RPN.NMS_THRESH", 0.5])}
    weights.write_bytes(b"2")
    assert len({first, of(), *others}) == 5
