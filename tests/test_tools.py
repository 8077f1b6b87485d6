import cv2
import torch
from detectron2.modeling import build_model
from tiny_run import finish, start, write_config, write_data_set

from anchor_heads import get_cfg


def test_show_detections_draws_pairs_of_images(tmp_path):
    write_data_set(tmp_path)
    config = write_config(tmp_path)
    cfg = get_cfg()
    cfg.merge_from_file(config)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")

    picture = tmp_path / "folder/detections.png"
    options = ["--config-file", config, "--weights", tmp_path / "model.pth", "--output", picture]
    code, said = finish(start("tools/show_detections.py", *options, "--num-images", 2))
    assert code == 0, said
    # Two pairs in a row, each image enlarged to a short side of 320.
    height, width, _ = cv2.imread(str(picture)).shape
    assert 320 < height < 480 and width > 4 * 320


def test_benchmark_of_the_losses_prints_a_row_per_number_of_objects():
    options = "--image-size 64 64 --objects 2 3 --repeats 2 --warmup 1".split()
    code, said = finish(start("tools/benchmark_losses.py", *options))
    assert code == 0, said
    rows = [line.split("|") for line in said.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows] == ["objects", "---", "2", "3"]
    for row in rows[2:]:
        ours, theirs, ratio, *memory = (float(cell.split()[0]) for cell in row[2:7])
        assert ours > 0 and theirs > 0 and ratio > 0 and min(memory) >= 0
