"""show-detections and visualize."""

import re
import shutil

import cv2
import numpy as np
from tiny_run import write_model


def test_show_detections_draws_pairs_of_images(tmp_path, command):
    config = write_model(tmp_path)
    picture = tmp_path / "folder/detections.png"
    options = ["--config-file", config, "--weights", tmp_path / "model.pth", "--output", picture]
    code, said, _ = command("show-detections", *options, "--num-images", 2)
    assert code == 0 and said == f"Wrote {picture}\n"
    # Two pairs in a row, each image enlarged to a short side of 320.
    height, width, _ = cv2.imread(str(picture)).shape
    assert 320 < height < 480 and width > 4 * 320
    code, _, said = command("show-detections", *options)
    assert code == 2
    assert said == (
        "anchor-heads show-detections: error: 1 of 1 output files exist, the first being "
        f"{picture}: choose another output, or overwrite with --force\n"
    )
    code, _, said = command(
        "show-detections", *options, "--force", "MODEL.CLASS_NAMES", ["bar", "square"]
    )
    assert code == 2 and "the same in another order" in said


def test_visualize_writes_a_picture_per_image(tmp_path, command):
    config = write_model(tmp_path, "GuidedAnchorRetinaNet")
    (tmp_path / "copies").mkdir()
    shutil.copy(tmp_path / "0.png", tmp_path / "copies/0.png")
    images = [tmp_path / "0.png", tmp_path / "1.png", tmp_path / "copies/0.png"]
    output = tmp_path / "pictures"
    options = ["--weights", tmp_path / "model.pth", "--output", output]
    overrides = ["MODEL.GUIDED_ANCHOR.LOCATION_THRESH", 0.5]
    code, said, _ = command("visualize", config, *options, *images, *overrides)
    assert code == 0
    names = ["0_anchors.png", "1_anchors.png", "0_2_anchors.png"]
    assert said.splitlines() == [f"Wrote {output / name}" for name in names]
    annotated, _, copy = (cv2.imread(str(output / name)) for name in names)
    # Three levels, anchors and detections, in two rows.
    assert annotated.shape[0] > 2 * 450 and annotated.shape[1] > 3 * 600
    # Objects are cyan; of the copy there is no annotation.
    cyan = (255, 255, 0)
    num_cyan = [(abs(x.astype(int) - cyan) < 90).all(axis=2).sum() for x in (annotated, copy)]
    assert num_cyan[0] > 100 and num_cyan[1] == 0


def test_visualize_names_what_it_cannot_read(tmp_path, command):
    config = write_model(tmp_path)
    image, weights = tmp_path / "0.png", tmp_path / "model.pth"
    for missing in ([tmp_path / "no.pth", image], [weights, image, tmp_path / "no.png"]):
        code, _, said = command("visualize", config, "--weights", *missing)
        name = next(path for path in missing if path.stem == "no")
        assert code == 2 and re.search(f"here is no file .*{name}", said)
    code, _, said = command("visualize", config, "--weights", weights, "SEED", 3)
    assert (code, said) == (2, "anchor-heads visualize: error: name at least one IMAGE\n")

    options = ["--output", tmp_path / "pictures"]
    image.write_bytes(image.read_bytes()[:100])
    strip = tmp_path / "strip.png"
    cv2.imwrite(str(strip), np.zeros((1, 9000, 3), np.uint8))
    files = [image, tmp_path / "annotations.json", strip, tmp_path / "1.png"]
    code, said, warned = command("visualize", config, "--weights", weights, *files, *options)
    assert code == 1 and said.startswith(f"Wrote {tmp_path / 'pictures/1_anchors.png'}\n3 of 4 inp")
    assert all(f"Cannot read the image {file}" in warned for file in files[:2])
    assert f"Cannot use {strip}, of 1x9000 pixels" in warned


def test_visualize_says_that_there_are_no_anchors(tmp_path, command):
    overrides = ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
    config = write_model(tmp_path, "GeneralizedRCNN", overrides)
    options = ["--weights", tmp_path / "model.pth", tmp_path / "0.png"]
    options += ["--output", tmp_path / "pictures"]
    code, _, said = command("visualize", config, *options)
    assert code == 2 and "needs precomputed proposals" in said
    assert not (tmp_path / "pictures").exists()
