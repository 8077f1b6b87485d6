import json

import cv2
import numpy as np
import pytest

from anchor_heads.data import shapes

TRAIN, VAL = 24, 3


@pytest.fixture(scope="module")
def shapes_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "new" / "folder"
    assert shapes.make_shapes(root, TRAIN, VAL)
    return root


def content(root):
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def read(root, split):
    return json.loads((root / f"{split}.json").read_text())


def test_same_bytes_every_time(shapes_root, tmp_path):
    shapes.make_shapes(tmp_path, TRAIN, VAL)
    assert content(tmp_path) == content(shapes_root)


def test_the_drawing_is_the_one_of_this_version():
    image, objects = shapes.draw_image(np.random.RandomState([0, 0, 0]))
    assert image.shape == (192, 160, 3)
    assert len(objects) == 5 and objects[0] == (0, 17, 44, 74, 37)
    # A change of the drawing has to raise shapes.VERSION: sets of old versions are then made anew.
    assert shapes.VERSION == "1"
    assert abs(image.mean() - 130.77) < 0.1


def test_images_do_not_depend_on_how_many_there_are(shapes_root, tmp_path):
    shapes.make_shapes(tmp_path, train=2, val=1)
    few, many = content(tmp_path), content(shapes_root)
    images = [name for name in few if name.endswith(".jpg")]
    assert len(images) == 3
    assert all(few[name] == many[name] for name in images)
    assert few["train/000000.jpg"] != few["val/000000.jpg"]


def test_another_seed_gives_other_images(shapes_root, tmp_path):
    shapes.make_shapes(tmp_path, train=1, val=1, seed=1)
    name = "train/000000.jpg"
    assert content(tmp_path)[name] != content(shapes_root)[name]


def test_coco_format(shapes_root):
    for split, count in (("train", TRAIN), ("val", VAL)):
        coco = read(shapes_root, split)
        assert set(coco) == {"info", "licenses", "images", "annotations", "categories"}
        assert [c["name"] for c in coco["categories"]] == ["rectangle", "ellipse", "triangle"]
        assert [c["id"] for c in coco["categories"]] == [1, 2, 3]
        assert len(coco["images"]) == count
        assert len(list((shapes_root / split).iterdir())) == count
        for image in coco["images"]:
            pixels = cv2.imread(str(shapes_root / split / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3)
        ids = [a["id"] for a in coco["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        for annotation in coco["annotations"]:
            assert annotation["iscrowd"] == 0
            assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]


def test_objects_are_within_the_stated_limits(shapes_root):
    coco = read(shapes_root, "train")
    images = {image["id"]: image for image in coco["images"]}
    assert {(i["width"], i["height"]) for i in coco["images"]} == set(shapes.IMAGE_SIZES)
    counts = np.bincount([a["image_id"] for a in coco["annotations"]], minlength=TRAIN + 1)[1:]
    assert counts.min() >= 1 and counts.max() <= 8
    assert {a["category_id"] for a in coco["annotations"]} == {1, 2, 3}
    ratios = set()
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        image = images[annotation["image_id"]]
        assert min(w, h) >= 12 and max(w, h) <= 90
        assert 0 <= x and x + w <= image["width"] and 0 <= y and y + h <= image["height"]
        ratios.add(h / w)
    assert ratios == {0.5, 1, 2}


@pytest.mark.parametrize("name", shapes.CLASSES)
@pytest.mark.parametrize("size", [(12, 12), (12, 24), (24, 12), (13, 26), (45, 90)])
@pytest.mark.parametrize("upside_down", [False, True])
def test_a_shape_touches_all_sides_of_its_box(name, size, upside_down):
    mask = shapes.coverage(name, *size, upside_down)
    assert mask.shape == size[::-1]
    assert (mask > 0).any(0).all() and (mask > 0).any(1).all()
    area = {"rectangle": 1, "ellipse": np.pi / 4, "triangle": 0.5}[name]
    assert mask.mean() == pytest.approx(area, abs=0.03)


def test_objects_overlap_but_stay_recognisable(monkeypatch):
    monkeypatch.setattr(shapes, "CLASSES", ("rectangle",))  # then a box tells what it covers
    overlaps = 0
    for seed in range(40):
        image, objects = shapes.draw_image(np.random.RandomState(seed))
        owner = np.zeros(image.shape[:2], int)
        for k, (_, x, y, w, h) in enumerate(objects, start=1):
            overlaps += owner[y : y + h, x : x + w].any()
            owner[y : y + h, x : x + w] = k
        visible = np.bincount(owner.ravel(), minlength=len(objects) + 1)[1:]
        assert (visible >= [0.65 * w * h for *_, w, h in objects]).all()
    assert overlaps >= 20


def test_the_default_set_is_small(shapes_root):
    images = [len(data) for name, data in content(shapes_root).items() if name.endswith(".jpg")]
    text = sum(len(data) for name, data in content(shapes_root).items() if name.endswith(".json"))
    assert 900 * np.mean(images) + 900 / (TRAIN + VAL) * text < 20e6


def test_a_complete_set_is_left_alone(shapes_root, capsys):
    before = {path: path.stat().st_mtime_ns for path in shapes_root.rglob("*")}
    shapes.main([str(shapes_root), "--train", str(TRAIN), "--val", str(VAL)])
    assert f"{TRAIN} train and {VAL} val images already there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in shapes_root.rglob("*")} == before


@pytest.mark.parametrize("lost", ["train/000001.jpg", "train.json", "val/000000.jpg"])
def test_an_interrupted_set_is_completed(tmp_path, lost):
    shapes.make_shapes(tmp_path, train=2, val=1)
    complete = content(tmp_path)
    (tmp_path / lost).unlink()
    assert shapes.make_shapes(tmp_path, train=2, val=1)
    assert content(tmp_path) == complete
    assert not shapes.make_shapes(tmp_path, train=2, val=1)


def test_a_set_of_other_numbers_is_made_anew(tmp_path):
    shapes.make_shapes(tmp_path, train=1, val=1)
    shapes.main([str(tmp_path), "--train", "2", "--val", "1", "--seed", "3"])
    coco = read(tmp_path, "train")
    assert len(coco["images"]) == 2 and coco["info"]["seed"] == 3


def test_another_data_set_is_not_overwritten(tmp_path):
    for text in ('{"images": []}', "[]", '{"info": {"description": "mine"}}', "no json"):
        (tmp_path / "val.json").write_text(text)
        with pytest.raises(SystemExit, match=r"val\.json belongs to another data set"):
            shapes.main([str(tmp_path)])
        assert (tmp_path / "val.json").read_text() == text
        assert not (tmp_path / "train").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit, match=f"{file} is a file"):
        shapes.main([str(file)])
    with pytest.raises(SystemExit, match=f"cannot be written to {file / 'below'}"):
        shapes.main([str(file / "below"), "--train", "1", "--val", "1"])


@pytest.mark.parametrize("option", [("--train", "0"), ("--val", "-1"), ("--seed", "-1")])
def test_impossible_options(tmp_path, option, capsys):
    with pytest.raises(SystemExit):
        shapes.main([str(tmp_path), *option])
    assert f"argument {option[0]}: {option[1]} is less than" in capsys.readouterr().err
