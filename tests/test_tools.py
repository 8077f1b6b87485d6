import runpy
import shutil
import sys

import cv2
import pytest
from tiny_run import REPOSITORY, finish, start, write_model


def test_show_detections_draws_pairs_of_images(tmp_path):
    config = write_model(tmp_path)

    picture = tmp_path / "folder/detections.png"
    options = ["--config-file", config, "--weights", tmp_path / "model.pth", "--output", picture]
    code, said = finish(start("tools/show_detections.py", *options, "--num-images", 2))
    assert code == 0, said
    # Two pairs in a row, each image enlarged to a short side of 320.
    height, width, _ = cv2.imread(str(picture)).shape
    assert 320 < height < 480 and width > 4 * 320


@pytest.mark.parametrize("method", ["FreeAnchor", "GuidedAnchor", "DynamicAnchor"])
def test_benchmark_of_the_losses_prints_a_row_per_number_of_objects(method):
    options = "--image-size 64 64 --objects 2 3 --repeats 2 --warmup 1 --method".split() + [method]
    code, said = finish(start("tools/benchmark_losses.py", *options))
    assert code == 0, said
    rows = [line.split("|") for line in said.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows] == ["objects", "---", "2", "3"]
    for row in rows[2:]:
        ours, theirs, ratio, *memory = (float(cell.split()[0]) for cell in row[2:7])
        assert ours > 0 and theirs > 0 and ratio > 0 and min(memory) >= 0


def test_visualize_anchors_writes_a_picture_per_image(tmp_path):
    config = write_model(tmp_path, "GuidedAnchorRetinaNet")
    (tmp_path / "copies").mkdir()
    shutil.copy(tmp_path / "0.png", tmp_path / "copies/0.png")
    images = [tmp_path / "0.png", tmp_path / "1.png", tmp_path / "copies/0.png"]
    output = tmp_path / "pictures"
    options = ["--weights", tmp_path / "model.pth", "--output-dir", output]
    overrides = ["MODEL.GUIDED_ANCHOR.LOCATION_THRESH", 0.5]
    code, said = finish(start("tools/visualize_anchors.py", config, *options, *images, *overrides))
    assert code == 0, said
    names = ["0_anchors.png", "1_anchors.png", "0_anchors_2.png"]
    assert [line for line in said.splitlines() if line.startswith("Wrote")] == [
        f"Wrote {output / name}" for name in names
    ]
    annotated, _, copy = (cv2.imread(str(output / name)) for name in names)
    # Three levels, anchors and detections, in two rows.
    assert annotated.shape[0] > 2 * 450 and annotated.shape[1] > 3 * 600
    # Objects are cyan; of the copy there is no annotation.
    num_cyan = [(x == (255, 255, 0)).all(axis=2).sum() for x in (annotated, copy)]
    assert num_cyan[0] > 100 and num_cyan[1] == 0


def visualize_anchors(monkeypatch, *command_line):
    monkeypatch.setattr(sys, "argv", ["visualize_anchors.py", *map(str, command_line)])
    runpy.run_path(str(REPOSITORY / "tools/visualize_anchors.py"), run_name="__main__")


def test_visualize_anchors_says_what_it_cannot_read(tmp_path, monkeypatch, capsys):
    config = write_model(tmp_path)
    image, weights = tmp_path / "0.png", tmp_path / "model.pth"
    for missing in ([tmp_path / "no.pth", image], [weights, image, tmp_path / "no.png"]):
        with pytest.raises(SystemExit):
            visualize_anchors(monkeypatch, config, "--weights", *missing)
        name = next(path for path in missing if path.stem == "no")
        assert f"there is no file {name}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        visualize_anchors(monkeypatch, config, "--weights", weights, "SEED", 3)
    assert "name at least one IMAGE" in capsys.readouterr().err

    options = ["--output-dir", tmp_path / "pictures"]
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(OSError, match=f"Cannot read the image {image}"):
        visualize_anchors(monkeypatch, config, "--weights", weights, image, *options)
    text = tmp_path / "annotations.json"
    with pytest.raises(OSError, match=f"Cannot read the image {text}"):
        visualize_anchors(monkeypatch, config, "--weights", weights, text, *options)


def test_visualize_anchors_says_that_there_are_none(tmp_path, monkeypatch):
    overrides = ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
    config = write_model(tmp_path, "GeneralizedRCNN", overrides)
    options = ["--weights", tmp_path / "model.pth", tmp_path / "0.png"]
    with pytest.raises(TypeError, match="gets precomputed proposals and has no anchors"):
        visualize_anchors(monkeypatch, config, *options, "--output-dir", tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()
