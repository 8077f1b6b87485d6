import os

import pytest

from anchor_heads.data import coco_json
from anchor_heads.data.coco_boxes import CORNERS
from anchor_heads.data.coco_json import CONVERTED, DROPPED, clean_coco_dict, cleaning_of


def test_what_is_missing_is_filled_in(coco, save, warnings_of):
    cleaned = clean_coco_dict(save(coco))
    assert cleaned["info"] == {}
    assert [a["iscrowd"] for a in cleaned["annotations"]] == [0, 0, 0]
    assert [a["area"] for a in cleaned["annotations"]] == [200, 39 * 29, 1000]
    assert [a["bbox"] for a in cleaned["annotations"]] == [a["bbox"] for a in coco["annotations"]]
    assert cleaned["images"] == coco["images"]
    assert not warnings_of()


def test_what_is_there_is_kept(coco, save):
    coco["info"] = {"year": 2021}
    coco["annotations"][0].update(iscrowd=1, area=3.5, note="kept")
    cleaned = clean_coco_dict(save(coco))
    assert cleaned["info"] == {"year": 2021}
    assert cleaned["annotations"][0] == coco["annotations"][0]


def test_unusable_boxes_are_dropped_and_counted_in_one_warning(coco, save, warnings_of):
    boxes = [
        [5, 5, 0, 10],  # no width
        [5, 5, 10, -1],  # no height
        [40, 5, 10, 10],  # beyond the right side
        [-20, 5, 20, 10],
        [30, 20, 20, 20],  # sticks out at the right and below
        [-5, -6, 10, 10],
        [0, 0, 40.001, 30],  # by rounding alone
    ]
    coco["annotations"] += [
        {"id": 20 + i, "image_id": 5, "category_id": 4, "bbox": box} for i, box in enumerate(boxes)
    ]
    coco["annotations"].append({"id": 30, "image_id": 6, "category_id": 4, "bbox": [1, 1, 2, 2]})
    json_file = save(coco)
    for _ in range(2):
        annotations = {a["id"]: a for a in clean_coco_dict(json_file)["annotations"]}
    assert list(annotations) == [7, 8, 9, 24, 25, 26]
    assert annotations[24]["bbox"] == [30, 20, 10, 10] and annotations[24]["area"] == 100
    assert annotations[25]["bbox"] == [0, 0, 5, 4]
    assert annotations[26]["bbox"] == [0, 0, 40, 30]
    assert warnings_of() == [
        f"{json_file}: "
        "1 of 11 annotations dropped (image not listed), first: annotation 30 of image 6; "
        "2 of 11 boxes dropped (no width or height), first: annotation 20 of image 5; "
        "2 of 11 boxes dropped (outside the image), first: annotation 22 of image 5; "
        "2 of 11 boxes clipped to the image, first: annotation 24 of image 5"
    ]


@pytest.mark.parametrize("ids", [(1, 2, 2), (0, 1, 2), (None, 4, 5)])
def test_annotation_ids_that_evaluation_cannot_use_are_replaced(coco, save, ids):
    for annotation, id in zip(coco["annotations"], ids, strict=True):
        annotation["id"] = id
    assert [a["id"] for a in clean_coco_dict(save(coco))["annotations"]] == [1, 2, 3]


def test_polygons_of_two_points_are_no_masks(coco, save, warnings_of):
    triangle, line = [0, 0, 9, 0, 9, 9], [0, 0, 9, 9]
    coco["annotations"][0]["segmentation"] = [line]
    coco["annotations"][1]["segmentation"] = [line, triangle]
    coco["annotations"][2]["segmentation"] = []
    json_file = save(coco)
    masks = [a["segmentation"] for a in clean_coco_dict(json_file)["annotations"]]
    assert masks == [[], [triangle], []]
    assert warnings_of() == [
        f"{json_file}: 1 of 3 masks dropped (no polygon of 3 points), "
        "first: annotation 7 of image 5"
    ]


def test_file_without_annotations(coco, save):
    del coco["annotations"]
    assert "annotations" not in clean_coco_dict(save(coco))
    coco["annotations"] = []
    assert clean_coco_dict(save(coco, "empty"))["annotations"] == []


def test_a_file_is_parsed_once_until_it_changes(coco, save, monkeypatch):
    parsed = []
    parse = coco_json._parse
    monkeypatch.setattr(coco_json, "_parse", lambda path: parsed.append(path) or parse(path))
    json_file = save(coco)
    clean_coco_dict(json_file)["annotations"].clear()  # each caller has a copy of its own
    assert len(clean_coco_dict(json_file)["annotations"]) == 3
    assert len(parsed) == 1
    coco["annotations"].pop()
    save(coco)
    os.utime(json_file, ns=(0, 0))
    assert len(clean_coco_dict(json_file)["annotations"]) == 2
    assert len(parsed) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", r"not a JSON file \(Expecting property name"),
        ("[]", "not in COCO format: a list, not an object"),
        ('{"images": []}', "not in COCO format: 'categories' must be there and be a list"),
        ('{"categories": []}', "not in COCO format: 'images' must be there and be a list"),
        (
            '{"images": ["a.jpg"], "categories": []}',
            "not in COCO format: 'images' must be there and",
        ),
    ],
)
def test_files_of_another_format(tmp_path, text, message):
    json_file = tmp_path / "own.json"
    json_file.write_text(text)
    with pytest.raises(ValueError, match=rf"own\.json: {message}"):
        clean_coco_dict(str(json_file))


@pytest.mark.parametrize(
    "key, change, message",
    [
        ("categories", {"id": 4}, r"two entries of category id 4 \(c and a\)"),
        ("categories", {"name": "a"}, "categories 20 and 4 have the same 'name', a: give each"),
        ("categories", {"keypoints": ["x", "y", "x"]}, "category 20 .c.: 'keypoints' names x twi"),
        (
            "categories",
            {"keypoints": ["x", "y"], "skeleton": [[1, 2], [2, 3]]},
            r"category 20 \(c\): 'skeleton' has \[2, 3\], and there are 2 keypoints, counted",
        ),
        ("images", {"id": 3}, r"two entries of image id 3 \(five.jpg and sub/three.jpg\)"),
        (
            "annotations",
            {"category_id": 2},
            r"annotation 7 of image 5: 'category_id' 2 is not among the categories \(4, 9, 20\)",
        ),
        ("annotations", {"ignore": 1}, "annotation 7 of image 5: 'ignore' is not supported"),
        (
            "annotations",
            {"segmentation": {"size": [40, 30], "counts": [1200]}},
            r"annotation 7 of image 5: 'segmentation' has the size \[40, 30\] and the image "
            r"\[30, 40\] \(height, width\)",
        ),
    ],
)
def test_entries_that_stop_the_run(coco, save, key, change, message):
    coco[key][0].update(change)
    with pytest.raises(ValueError, match=rf"own\.json: {message}"):
        clean_coco_dict(save(coco, images=False))


def test_missing_box_and_id_are_named_by_position(coco, save):
    del coco["annotations"][1]["bbox"], coco["annotations"][1]["id"]
    message = r"annotation number 1 \(from 0\) of image 5: 'bbox' is missing: it has to be 4 finite"
    with pytest.raises(ValueError, match=message):
        clean_coco_dict(save(coco))


def test_what_was_converted_is_in_the_one_warning(coco, save, warnings_of):
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = "0"
    coco["images"][0]["width"] = "40"
    coco["annotations"].append({**coco["annotations"][0], "id": 10, "bbox": [50, 5, 10, 10]})
    json_file = save(coco, images=False)
    assert [a["iscrowd"] for a in clean_coco_dict(json_file)["annotations"]] == [0, 0, 0]
    assert warnings_of() == [
        f"{json_file}: 1 of 2 images with 'width' converted, first: image 5 (five.jpg) ('40' read "
        "as 40); 4 of 4 annotations with 'iscrowd' converted, first: annotation 7 of image 5 ('0' "
        "read as 0); 1 of 4 boxes dropped (outside the image), first: annotation 10 of image 5"
    ]
    assert [(x.kind, x.count, x.total) for x in cleaning_of(json_file).changes] == [
        (CONVERTED, 1, 2),
        (CONVERTED, 4, 4),
        (DROPPED, 1, 4),
    ]


def test_ids_of_text_are_converted_alike(coco, save):
    for image in coco["images"]:
        image["id"] = f"{image['id']:06}"
    for annotation in coco["annotations"]:
        annotation["image_id"] = f"{annotation['image_id']:06}"
        annotation["category_id"] = [str(annotation["category_id"])]
    cleaned = clean_coco_dict(save(coco, images=False))
    assert [image["id"] for image in cleaned["images"]] == [5, 3]
    assert [a["image_id"] for a in cleaned["annotations"]] == [5, 5, 3]
    assert [a["category_id"] for a in cleaned["annotations"]] == [20, 4, 9]


def test_objects_have_keypoints_if_one_has(coco, save):
    coco["annotations"][1]["keypoints"] = [1, 2, 2, 3, 4, 1, 0, 0, 0]
    cleaned = clean_coco_dict(save(coco))["annotations"]
    assert [a["num_keypoints"] for a in cleaned] == [0, 2, 0]
    assert cleaned[0]["keypoints"] == [0] * 9
    coco["annotations"][0]["keypoints"] = [1, 2, 2]
    different = clean_coco_dict(save(coco, "different"))["annotations"]
    assert "keypoints" not in different[2]
    coco["annotations"][2].update(category_id=20, keypoints=[1, 2, 2, 3, 4, 1])
    message = "annotation 9 of image 3: 'keypoints' has 2 points, and others of category 20 have 1"
    with pytest.raises(ValueError, match=message):
        clean_coco_dict(save(coco, "wrong"))


def test_boxes_of_another_format_are_noticed(coco, save, warnings_of):
    boxes = [[30, 20, 38, 29], [2, 3, 20, 20], [25, 1, 35, 9], [5, 20, 30, 28]]
    coco["annotations"] = [
        {"id": i + 1, "image_id": 5, "category_id": 4, "bbox": box} for i, box in enumerate(boxes)
    ]
    json_file = save(coco)
    assert cleaning_of(json_file).box_format == CORNERS
    assert "the boxes look like (x0, y0, x1, y1), two corners; COCO's are" in warnings_of()[0]


def test_images_that_share_a_file_are_counted(coco, save, warnings_of):
    """As of converters that make an image of each object."""
    coco["images"].append({**coco["images"][0], "id": 77})
    assert len(clean_coco_dict(save(coco))["images"]) == len(coco["images"])
    (warning,) = warnings_of()
    assert "1 of 3 images have the file of an earlier one, whose objects are backgr" in warning
    assert "first: image 77 (five.jpg)" in warning


@pytest.mark.parametrize("key", ["images", "categories"])
def test_empty_lists(coco, save, key):
    coco[key] = []
    with pytest.raises(ValueError, match=f"own.json: '{key}' is empty"):
        clean_coco_dict(save(coco))
