"""Every field in the types that converters write: what it becomes, or that it stops the run."""

import copy
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest

from anchor_heads.data.coco_json import clean_coco_dict, cleaning_of

STOPS = object()  # with the file, the entry and the field in the message
ABSENT = object()
MISSING = object()  # as a value: the field is not there

TRIANGLE = [0, 0, 9, 0, 9, 9]
BITS = np.zeros((30, 40), np.uint8, order="F")
BITS[3:20, 5:31] = 1
COMPRESSED = mask_util.encode(BITS)["counts"].decode()
LENGTHS = [5 * 30 + 3, *[17, 13] * 25, 17, 40 * 30 - 31 * 30 + 10]
RLE = {"size": [30, 40], "counts": LENGTHS}
POINTS = [1, 2, 2, 3, 4, 1]

# (list, field, value, what it becomes)
VALUES = [
    # ids of what other entries refer to
    *[
        (key, field, value, result)
        for key, field, good in (
            ("images", "id", 5),
            ("categories", "id", 4),
            ("annotations", "image_id", 5),
            ("annotations", "category_id", 4),
        )
        for value, result in (
            (str(good), good),
            (f" 00{good} ", good),
            (float(good), good),
            ([good], good),
            ([str(good)], good),
            (good + 0.5, STOPS),
            (True, STOPS),
            (None, STOPS),
            (MISSING, STOPS),
            ("", STOPS),
            ("one", STOPS),
            (math.nan, STOPS),
            (2**70, STOPS),
            ([good, good], STOPS),
            ({"id": good}, STOPS),
        )
    ],
    # numbered anew where they cannot be used
    *[
        ("annotations", "id", value, result)
        for value, result in (
            ("7", 7),
            ([7], 7),
            (7.0, 7),
            *[(x, 1) for x in (None, MISSING, "", "a7f3", True, -1, 0, 7.5, {})],
        )
    ],
    *[
        (key, field, value, result)
        for key, field in (("images", "file_name"), ("categories", "name"))
        for value, result in (
            (["x.jpg"], "x.jpg"),
            (3, "3"),
            (None, STOPS),
            (MISSING, STOPS),
            ("", STOPS),
            (True, STOPS),
            ({"name": "x"}, STOPS),
            ([], STOPS),
        )
    ],
    *[("categories", "name", *pair) for pair in ((" x\n", "x"), ("  ", STOPS), ([" x"], "x"))],
    ("images", "file_name", " x.jpg", " x.jpg"),
    *[
        ("images", field, value, result)
        for field, size in (("width", 40), ("height", 30))
        for value, result in (
            (str(size), size),
            (float(size), size),
            ([size], size),
            *[(x, STOPS) for x in (size + 0.5, 0, -1, None, MISSING, "", "wide", True, math.nan)],
        )
    ],
    ("annotations", "bbox", ["1", "2.5", "10", " 20 "], [1, 2.5, 10, 20]),
    ("annotations", "bbox", [[1, 2, 10, 20]], [1, 2, 10, 20]),
    ("annotations", "bbox", [[1], [2], [10], [20]], [1, 2, 10, 20]),
    *[
        ("annotations", "bbox", value, STOPS)
        for value in (
            *(None, MISSING, "", [], {}, [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2], [3, 4]], "1,2,3,4"),
            *([1, 2, 3, math.nan], [1, 2, 3, math.inf], [1, 2, 3, "x"], [1, 2, 3, None]),
            *([1, 2, 3, True], [1, 2, 3, 1e12], {"x": 1, "y": 2, "w": 3, "h": 4}),
        )
    ],
    *[
        ("annotations", "iscrowd", value, result)
        for value, result in (
            ("0", 0),
            ("1", 1),
            (False, 0),
            (True, 1),
            ("false", 0),
            ("True", 1),
            (0.0, 0),
            ([1], 1),
            (None, 0),
            (MISSING, 0),
            ("", 0),
            *[(x, STOPS) for x in (2, -1, "no", "N/A", [], {}, 0.5, math.nan)],
        )
    ],
    *[("annotations", "ignore", value, ABSENT) for value in (None, MISSING, "")],
    *[("annotations", "ignore", value, 0) for value in ("0", False, [0])],
    *[("annotations", "ignore", value, STOPS) for value in ("1", True, 1, "maybe")],
    # the box has 10 x 20 pixels
    *[
        ("annotations", "area", value, result)
        for value, result in (
            ("12.5", 12.5),
            ([12], 12),
            *[(x, 200) for x in (None, MISSING, "", 0, -1, "0", math.nan, math.inf, 1e11)],
            *[(x, STOPS) for x in ("large", True, [], [1, 2], {})],
        )
    ],
    *[
        ("annotations", "segmentation", value, result)
        for value, result in (
            (TRIANGLE, [TRIANGLE]),
            ([TRIANGLE, TRIANGLE], [TRIANGLE, TRIANGLE]),
            ([str(x) for x in TRIANGLE], [TRIANGLE]),
            ([[str(x) for x in TRIANGLE]], [TRIANGLE]),
            ([[0, 0], [9, 0], [9, 9]], [TRIANGLE]),
            ([[[0, 0], [9, 0], [9, 9]]], [TRIANGLE]),
            ([], []),
            ([[]], []),
            ([[0, 0, 9, 9]], []),
            (None, ABSENT),
            (MISSING, ABSENT),
            ("", ABSENT),
            (RLE, RLE),
            ([RLE], RLE),
            ({**RLE, "counts": [str(x) for x in LENGTHS]}, RLE),
            (
                {"size": ["30", 40.0], "counts": COMPRESSED},
                {"size": [30, 40], "counts": COMPRESSED},
            ),
            *[
                (x, STOPS)
                for x in (
                    *("1,2,3,4,5,6", 1, True, {}, [[*TRIANGLE, 3]], [TRIANGLE[:-1] + [math.nan]]),
                    # pycocotools crashes
                    *([TRIANGLE[:-1] + [1e9]], [[-1e9, *TRIANGLE[1:]]]),
                    *(
                        [None],
                        [TRIANGLE[:-1] + [True]],
                        [TRIANGLE[:-1] + ["x"]],
                        {"counts": LENGTHS},
                    ),
                    *(
                        {**RLE, "counts": None},
                        {**RLE, "counts": LENGTHS[:-1]},
                        {**RLE, "size": 30},
                    ),
                    *({**RLE, "counts": [-1, 1201]}, {**RLE, "counts": COMPRESSED[:-1]}),
                    *({**RLE, "counts": ""}, {**RLE, "counts": "~~~"}, {**RLE, "size": [40, 30]}),
                )
            ],
        )
    ],
    *[
        ("annotations", "keypoints", value, result)
        for value, result in (
            (POINTS, POINTS),
            ([str(x) for x in POINTS], POINTS),
            ([POINTS[:3], POINTS[3:]], POINTS),
            ([1.0, 2.5, 2.0, 0, 0, 0], [1.0, 2.5, 2.0, 0, 0, 0]),
            *[(x, ABSENT) for x in (None, MISSING, "", [])],
            *[
                (x, STOPS)
                for x in ([1, 2], [1, 2, 3], [1, 2, -1], [1, 2, 0.5], [math.nan, 2, 2], ["x", 2, 2])
            ],
            *[(x, STOPS) for x in ([[1, 2], [3, 4]], [1, 2, True], {"x": 1}, 3, "1,2,2")],
        )
    ],
    *[
        ("categories", "keypoints", value, result)
        for value, result in (
            (["nose", "tail"], ["nose", "tail"]),
            ([1, 2], ["1", "2"]),
            *[(x, ABSENT) for x in (None, MISSING, "", [])],
            *[(x, STOPS) for x in ("nose", ["a", "a"], [None], {"0": "nose"}, 2)],
        )
    ],
    *[
        ("categories", "skeleton", value, result)
        for value, result in (
            ([[1, 2]], [[1, 2]]),
            ([["1", 2.0]], [[1, 2]]),
            *[(x, ABSENT) for x in (None, MISSING, "", [])],
            *[(x, STOPS) for x in ([[0, 1]], [[1]], [1, 2], [["a", "b"]], "1-2", [None])],
        )
    ],
]


def name_of(value):
    return {id(STOPS): "stops", id(ABSENT): "absent", id(MISSING): "missing"}.get(id(value))


@pytest.mark.parametrize("key, field, value, result", VALUES, ids=name_of)
def test_values(coco, tmp_path, key, field, value, result):
    if key == "categories":
        coco["categories"].reverse()
        coco["categories"] = [c for c in coco["categories"] if c["id"] == 4] + [
            c for c in coco["categories"] if c["id"] != 4
        ]
    coco["annotations"][0]["category_id"] = 4
    entry = coco[key][0]
    entry.pop(field, None)
    if value is not MISSING:
        entry[field] = copy.deepcopy(value)
    json_file = tmp_path / "own.json"
    json_file.write_text(json.dumps(coco))
    if result is STOPS:
        with pytest.raises(ValueError, match=rf"own\.json: .*'{field}'") as error:
            clean_coco_dict(str(json_file))
        kind = {"images": "image", "annotations": "annotation", "categories": "category"}[key]
        assert f"{kind} " in str(error.value)
        return
    cleaned = clean_coco_dict(str(json_file))[key][0]
    if result is ABSENT:
        assert field not in cleaned
    else:
        assert cleaned[field] == result and type(cleaned[field]) is type(result)
    was_changed = value not in (MISSING, None, "") and not (
        value == result and type(value) is type(result)
    )
    changes = [str(change) for change in cleaning_of(str(json_file)).changes]
    assert was_changed == bool(changes), changes


def test_compressed_run_lengths_are_decoded_as_pycocotools_does():
    from anchor_heads.data.coco_fields import _decoded_counts

    rng = np.random.default_rng(0)
    for share in (0.01, 0.5, 0.99):
        bits = np.asfortranarray(rng.random((50, 70)) < share).astype(np.uint8)
        bits[10:40, 5:60] = share > 0.5
        flat = bits.flatten(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        lengths = np.diff([0, *edges, flat.size]).tolist()
        lengths = [0, *lengths] if flat[0] else lengths
        compressed = mask_util.encode(bits)["counts"].decode()
        assert _decoded_counts(compressed) == lengths
