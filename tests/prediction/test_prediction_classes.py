import pytest
from detectron2.data import Metadata

from anchor_heads.prediction.classes import image_ids, model_categories
from anchor_heads.prediction.sources import Camera, ImageFile

CELLS = Metadata(
    name="cells",
    thing_classes=["red", "white"],
    thing_dataset_id_to_contiguous_id={3: 0, 7: 1},
)
ANNOTATIONS = {
    "categories": [{"id": 9, "name": "plate"}, {"id": 4, "name": "red", "supercategory": "cell"}],
    "images": [
        {"id": 11, "file_name": "a.jpg", "width": 4, "height": 3},
        {"id": 12, "file_name": "sub/a.jpg", "width": 4, "height": 3},
        {"id": 13, "file_name": "b.jpg", "width": 4, "height": 3},
    ],
}


def as_pairs(categories):
    return [(category["id"], category["name"]) for category in categories]


def test_categories_of_the_data_set_of_the_annotations_and_of_nothing():
    assert as_pairs(model_categories(2, CELLS)) == [(3, "red"), (7, "white")]
    assert as_pairs(model_categories(2, CELLS, ANNOTATIONS)) == [(4, "red"), (9, "plate")]
    assert as_pairs(model_categories(2, Metadata())) == [(0, "0"), (1, "1")]


def test_class_names_rename_the_classes():
    names = ["rouge", "blanc"]
    assert as_pairs(model_categories(2, CELLS, class_names=names)) == [(3, "rouge"), (7, "blanc")]
    # The data set is another one's than the model's.
    names = ["car", "bus", "bike"]
    expected = [(0, "car"), (1, "bus"), (2, "bike")]
    assert as_pairs(model_categories(3, CELLS, class_names=names)) == expected


def test_proposals_have_one_category():
    assert as_pairs(model_categories(None, CELLS)) == [(1, "object")]
    assert as_pairs(model_categories(None, CELLS, ANNOTATIONS)) == [(4, "red")]


def test_numbers_of_classes_that_differ():
    with pytest.raises(ValueError, match=r"has 3 classes, but there are 2 \(red, white\) in data"):
        model_categories(3, CELLS)
    with pytest.raises(ValueError, match=r"are 2 \(red, plate\) in the annotation file"):
        model_categories(3, CELLS, ANNOTATIONS, ["a", "b", "c"])
    with pytest.raises(ValueError, match="has 2 classes, and --class-names 1 names"):
        model_categories(2, CELLS, class_names=["a"])


def test_images_are_found_by_the_end_of_their_path():
    sources = [ImageFile(path, path) for path in ("x/sub/a.jpg", "x/a.jpg", "b.jpg", "x/c.jpg")]
    ids = image_ids(sources, ANNOTATIONS, "some.json")
    assert ids == dict(zip(sources, [12, 11, 13], strict=False))
    with pytest.raises(ValueError, match="lists none of the images, the first being x/c.jpg"):
        image_ids(sources[3:], ANNOTATIONS, "some.json")


def test_sources_that_have_no_image_id_of_their_own():
    twice = [ImageFile("train/b.jpg", "b.jpg"), ImageFile("val/b.jpg", "b.jpg")]
    with pytest.raises(ValueError, match="train/b.jpg and val/b.jpg both are image 13"):
        image_ids(twice, ANNOTATIONS, "some.json")
    with pytest.raises(ValueError, match="take out camera 0 or --annotations"):
        image_ids([Camera(0)], ANNOTATIONS, "some.json")
