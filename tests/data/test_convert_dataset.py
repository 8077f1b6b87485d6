import json
import os

import cv2
import numpy as np
import pytest

from anchor_heads.cli.main import main
from anchor_heads.data.checks import check_datasets
from anchor_heads.data.coco_json import clean_coco_dict
from anchor_heads.data.convert_dataset import convert_dataset

pytest.importorskip("supervision")

OBJECT = """<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def write_image(path, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 128, np.uint8))


def write_voc(folder, images, annotations):
    boxes = {
        "1": OBJECT.format("dog", 0, 1, 1, 10, 20) + OBJECT.format("cat", 1, 31, 21, 50, 30),
        "2": "",
        "3": OBJECT.format("cat", 0, 5, 6, 14, 15),
        "5": OBJECT.format("cat", 0, 5, 6, 14, 15),
    }
    for stem in ("1", "2", "3", "4"):
        write_image(folder / images / f"{stem}.jpg")
    (folder / annotations).mkdir(exist_ok=True)
    for stem, objects in boxes.items():
        xml = f"<annotation><filename>{stem}.jpg</filename>{objects}</annotation>"
        (folder / annotations / f"{stem}.xml").write_text(xml)


def contents(report):
    """By image file: the class and box of each object."""
    coco = json.loads(open(report.json_file).read())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        found[annotation["image_id"]].append((names[annotation["category_id"]], annotation["bbox"]))
    return {image["file_name"]: found[image["id"]] for image in coco["images"]}


def test_pascal_voc_with_parts(tmp_path):
    write_voc(tmp_path, "JPEGImages", "Annotations")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("1.jpg\n2\n\n")
    (lists / "val.txt").write_text("3  1\n4 -1\n6\n")
    (lists / "cat_train.txt").write_text("1 1\n")
    train, val = convert_dataset(str(tmp_path), str(tmp_path / "out"))
    # VOC's boxes include both ends, and count from 1
    assert contents(train) == {
        "1.jpg": [("dog", [0, 0, 10, 20]), ("cat", [30, 20, 20, 10])],
        "2.jpg": [],
    }
    assert contents(val) == {"3.jpg": [("cat", [4, 5, 10, 10])], "4.jpg": []}
    assert (train.num_images, train.num_objects) == (2, 2)
    assert train.notes == [
        "1 objects are marked difficult, and are kept like others, first: 1",
        "in training: 1 of 2 boxes clipped to the image, first: annotation 2 of image 1",
    ]
    assert val.notes == [
        "1 images have no annotation file, and are kept as images without objects, first: 4",
        "1 images that the list names have no file, and are left out, first: 6",
    ]
    assert train.class_names == val.class_names


def test_lists_of_pascal_voc_as_editors_write_them(tmp_path):
    """Blanks in names, one of which ends like a flag, and a byte order mark."""
    write_voc(tmp_path, "JPEGImages", "Annotations")
    for name in ("JPEGImages/1.jpg", "Annotations/1.xml"):
        (tmp_path / name).rename(tmp_path / name.replace("1.", "my image 1."))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes("\ufeff3\r\nmy image 1\r\n".encode())
    (report,) = convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert list(contents(report)) == ["3.jpg", "my image 1.jpg"]
    assert report.num_objects == 3


def test_blanks_around_the_names_of_pascal_voc_are_no_part_of_them(tmp_path):
    write_voc(tmp_path, ".", ".")
    xml = (tmp_path / "3.xml").read_text()
    (tmp_path / "3.xml").write_text(xml.replace("cat", " cat\n"))
    (report,) = convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert report.class_names == ["cat", "dog"]
    assert contents(report)["3.jpg"] == [("cat", [4, 5, 10, 10])]


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        (
            "Annotations/3.xml",
            "bndbox>",
            "box>",
            r"Annotations/3\.xml cannot be read: Missing bndb",
        ),
        (
            "Annotations/3.xml",
            "name>",
            "label>",
            r"Annotations/3\.xml cannot be read: Missing 'name",
        ),
        ("Annotations/3.xml", "</annotation>", "", r"Annotations/3\.xml cannot be read: "),
        ("ImageSets/Main/val.txt", "3", "7", "val has no image in .*JPEGImages .*, such as 7"),
    ],
)
def test_pascal_voc_with_errors_writes_nothing(tmp_path, file, old, new, message):
    write_voc(tmp_path, "JPEGImages", "Annotations")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("1")
    (lists / "val.txt").write_text("3")
    (tmp_path / file).write_text((tmp_path / file).read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_pascal_voc_in_one_folder_can_be_trained_on(tmp_path, config):
    write_voc(tmp_path, ".", ".")
    (report,) = convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert "1 annotation files have no image, and are left out, first: 5" in report.notes
    cfg = config(train=["all"], classes=2)
    cfg.DATASETS.COCO_FORMAT = [("all", report.json_file, report.image_folder)]
    check_datasets(cfg)


def write_yolo(folder, layout, yaml):
    """A box and a triangle with their images, in folders of ``layout``."""
    lines = ["1 0.5 0.5 0.25 0.2\n", "0 0.1 0.1 0.9 0.1 0.9 0.9\n"]
    for i, (images, labels) in enumerate(layout):
        write_image(folder / images / f"{i}.jpg")
        (folder / labels).mkdir(parents=True, exist_ok=True)
        (folder / labels / f"{i}.txt").write_text(lines[i])
    (folder / "data.yaml").write_text(yaml)


@pytest.mark.parametrize(
    "layout, yaml",
    [
        (
            [("images/train", "labels/train"), ("images/val", "labels/val")],
            "path: /gone\ntrain: images/train\nval: images/val\nnames: {0: a, 1: b}",
        ),
        (
            [("train/images", "train/labels"), ("valid/images", "valid/labels")],
            "train: ../train/images\nval: ../valid/images\nnames: [a, b]",
        ),
        ([("images/train", "labels/train"), ("images/val", "labels/val")], "names: [a, b]"),
    ],
)
def test_yolo(tmp_path, layout, yaml):
    write_yolo(tmp_path, layout, yaml)
    train, val = convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert contents(train) == {"0.jpg": [("b", [15, 12, 10, 6])]}
    assert train.class_names == ["a", "b"]
    (triangle,) = clean_coco_dict(val.json_file)["annotations"]
    assert triangle["area"] == pytest.approx(32 * 24 / 2, rel=0.15)
    assert triangle["segmentation"]["size"] == [30, 40]


@pytest.mark.parametrize(
    "folders", ["[images/a, images/b]", "images", "[images/b, images/a, ./images]"]
)
def test_yolo_with_a_part_of_several_folders(tmp_path, monkeypatch, folders):
    layout = [("images/a", "labels/a"), ("images/b", "labels/b")]
    write_yolo(tmp_path, layout, f"train: {folders}\nnames: {{'0': a, '1': b}}")
    (tmp_path / "labels" / "b" / "2.txt").touch()
    monkeypatch.chdir(tmp_path)
    (report,) = convert_dataset(".", "out")
    boxes = contents(report)
    assert boxes["a/0.jpg"] == [("b", [15, 12, 10, 6])] and len(boxes["b/1.jpg"]) == 1
    assert os.path.abspath(report.image_folder) == str(tmp_path / "images")
    assert report.notes == ["1 annotation files have no image, and are left out, first: b/2"]


@pytest.mark.parametrize(
    "yaml, message",
    [
        ("names: {0: person, 2: car, 7: truck}", "the keys of 'names' are 0, 2, 7: write the numb"),
        ("names: {1: a, 2: b}", "data.yaml: the keys of 'names' are 1, 2"),
        ("names: [off, on]", "YAML reads a name in 'names' as False: put it in quotes"),
        ("names: [a, a]", "categories 1 and 2 have the same 'name', a: give each a name"),
        ("names: [a, b]\ntrain: train.txt", "data.yaml: train is 'train.txt': only folders of im"),
        ("names: [a, b]\ntrain: [images, train.txt]", "only folders of images can be converted"),
        ("names: [a, b]\ntrain: images\ntest: empty", "test has no image in .*empty"),
        ("names: [a, b]\ntrain: images\ntest: [images, gone]", "test has no folder .*gone"),
    ],
)
def test_yolo_that_would_become_something_else_is_refused(tmp_path, yaml, message):
    write_yolo(tmp_path, [("images", "labels")] * 2, yaml)
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_yolo_without_parts(tmp_path):
    write_yolo(tmp_path, [("images", "labels")] * 2, "names: [a, b]\nkpt_shape: [2, 3]")
    (report,) = convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert report.split == "all" and report.num_objects == 2
    assert report.notes == ["2 images have keypoints, which are left out, first: 0"]


def test_what_training_drops_is_written_and_noted(tmp_path):
    write_yolo(tmp_path, [("images", "labels")], "names: [a, b]")
    with open(tmp_path / "labels" / "0.txt", "a") as file:
        file.write("0 2.5 0.5 0.1 0.1\n")
    (report,) = convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert report.num_objects == sum(map(len, contents(report).values())) == 2
    assert len(clean_coco_dict(report.json_file)["annotations"]) == 1
    assert report.notes == [
        "in training: 1 of 2 boxes dropped (outside the image), first: annotation 2 of image 1"
    ]


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        convert_dataset(str(tmp_path / "nowhere"), str(tmp_path))
    with pytest.raises(ValueError, match="is in neither Pascal VOC's nor YOLO's format"):
        convert_dataset(str(tmp_path), str(tmp_path))
    write_yolo(tmp_path, [("images", "labels")], "names: [a]")
    with pytest.raises(ValueError, match=r"0\.jpg' contains class_id 1, outside the valid range"):
        convert_dataset(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="has no data.yaml: write one with the classes"):
        convert_dataset(str(tmp_path), str(tmp_path / "out"))


def test_command(tmp_path, capsys):
    write_voc(tmp_path, ".", ".")
    command = ["convert-dataset", str(tmp_path), str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert (
        f"Wrote {tmp_path / 'out' / 'all.json'}: 4 images, 3 objects of 2 classes (cat, dog)"
        in said
    )
    assert f'["all", "{tmp_path / "out" / "all.json"}", "{tmp_path}"]' in said
    assert main(command) == 2 and "exist" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
