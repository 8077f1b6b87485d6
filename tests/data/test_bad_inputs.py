"""Data sets as they are found: each is either used without a fault, or answered before the start.

An answer is one of this package's own errors, and says which file and what is wrong with it.
"""

import gzip
import io
import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import ExifTags, Image

from anchor_heads import get_cfg
from anchor_heads.data.checks import check_datasets
from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.errors import is_user_error
from anchor_heads.evaluation import build_evaluator

ACCEPTED = None


@pytest.fixture
def folder(coco, save, tmp_path):
    save(coco)
    return tmp_path


def text(content, encoding="utf-8"):
    """The annotation file holds this."""
    content = content if isinstance(content, bytes) else content.encode(encoding)
    return lambda folder, coco: (folder / "own.json").write_bytes(content)


def edited(change, dump=json.dumps):
    """The annotation file after a change of its content."""

    def edit(folder, coco):
        change(coco)
        (folder / "own.json").write_text(dump(coco))

    return edit


def every(key, **fields):
    """Every entry of a list with these fields; functions are called with the old value."""

    def change(coco):
        for entry in coco[key]:
            for name, value in fields.items():
                entry[name] = value(entry.get(name)) if callable(value) else value

    return edited(change)


def image(name, content):
    """An image file that holds this."""

    def write(folder, coco):
        path = folder / "images" / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path.with_suffix(".png"))
            shutil.move(path.with_suffix(".png"), path)

    return write


def pixels(mode, value=0, size=(40, 30)):
    return Image.new(mode, size, value)


def jpeg(size=(40, 30), **fields):
    return saved(Image.new("RGB", size), "jpeg", **fields)


def tiff(mode, value):
    return saved(pixels(mode, value), "tiff")


def saved(image, format, **fields):
    stream = io.BytesIO()
    image.save(stream, format, **fields)
    return stream.getvalue()


def saved_array():
    stream = io.BytesIO()
    np.save(stream, np.zeros((30, 40, 3), np.uint8))
    return stream.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif


def png(size):
    """A PNG that says it is of this size, and has its pixels if they are few."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    width, height = size
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = (b"\0" + b"\x80" * 3 * width) * height if height < 100 else b""
    content = zlib.compress(pixels)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


COCO_TEXT = '{"images": [{"id": 5, "file_name": "five.jpg", "width": 40, "height": 30}], %s}'
CATEGORIES = (
    '"categories": [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}, {"id": 20, "name": "c"}]'
)
BOX = '"annotations": [{"id": 1, "image_id": 5, "category_id": 4, "bbox": %s}]'


def one_box(box):
    return text(COCO_TEXT % f"{CATEGORIES}, {BOX % box}")


INPUTS = {
    # the annotation file
    "empty file": (text(""), "own.json: not a JSON file"),
    "cut off": (text('{"images": [{"id": 5, "file'), "own.json: not a JSON file"),
    "a list": (text("[]"), "own.json: not in COCO format: a list"),
    "a number": (text("3"), "own.json: not in COCO format: a int"),
    "null": (text("null"), "own.json: not in COCO format"),
    "JSON lines": (text('{"id": 1}\n{"id": 2}\n'), "own.json: not a JSON file"),
    "Python": (text("{'images': []}"), "own.json: not a JSON file"),
    "UTF-16": (text("{}", "utf-16"), "own.json: not a JSON file"),
    "binary": (text(b"\x00\xff\xfe\x80"), "own.json: not a JSON file"),
    "deep nesting": (text("[" * 100_000), "own.json: not a JSON file"),
    "byte order mark": (
        lambda folder, coco: (folder / "own.json").write_text(json.dumps(coco), "utf-8-sig"),
        ACCEPTED,
    ),
    "a folder": (
        lambda folder, coco: ((folder / "own.json").unlink(), (folder / "own.json").mkdir()),
        "there is no annotation file .* It is a folder",
    ),
    "no images": (edited(lambda coco: coco["images"].clear()), "own.json: 'images' is empty"),
    "no categories": (edited(lambda coco: coco.pop("categories")), "'categories' must be there"),
    "results of a model": (text('[{"image_id": 1, "score": 1}]'), "not in COCO format: a list"),
    "images by id": (edited(lambda coco: coco.update(images={"5": {}})), "'images' must be there"),
    "annotations null": (edited(lambda coco: coco.update(annotations=None)), "'annotations' must"),
    "info null": (edited(lambda coco: coco.update(info=None)), ACCEPTED),
    "unknown keys": (edited(lambda coco: coco.update(licenses=3, x=[1])), ACCEPTED),
    "compressed": (text(gzip.compress(b"{}")), "own.json: not a JSON file"),
    "XML": (text("<annotation><object/></annotation>"), "own.json: not a JSON file"),
    "CSV": (text("file,x,y\n1,2,3\n"), "own.json: not a JSON file"),
    "comments": (text('// mine\n{"images": []}'), "own.json: not a JSON file"),
    "a comma too many": (text('{"images": [],}'), "own.json: not a JSON file"),
    "two files in one": (text("{}{}"), "own.json: not a JSON file"),
    "no keys": (text("{}"), "'images' must be there"),
    "of LabelMe": (text('{"shapes": [], "imagePath": "five.jpg"}'), "'images' must be there"),
    "of VIA": (text('{"five.jpg1": {"filename": "five.jpg"}}'), "'images' must be there"),
    "of CreateML": (text('[{"image": "five.jpg"}]'), "own.json: not in COCO format: a list"),
    "of panoptic segmentation": (
        edited(lambda coco: [a.pop("category_id") for a in coco["annotations"]]),
        "annotation 7 of image 5: 'category_id' is missing",
    ),
    "a key twice": (text(f'{{"images": [{{}}], "images": [], {CATEGORIES}}}'), "'images' is empty"),
    "images in a list more": (
        edited(lambda coco: coco.update(images=[coco["images"]])),
        "'images' must be there and be a list of objects",
    ),
    "an annotation of nothing": (
        edited(lambda coco: coco["annotations"].append(None)),
        "'annotations' must be there and be a list of objects",
    ),
    "a pipe": (
        lambda folder, coco: ((folder / "own.json").unlink(), os.mkfifo(folder / "own.json")),
        "there is no annotation file",
    ),
    "a link to itself": (
        lambda folder, coco: (
            (folder / "own.json").unlink(),
            (folder / "own.json").symlink_to("own.json"),
        ),
        "there is no annotation file",
    ),
    # its fields; the types of each are in test_coco_fields.py
    "ids as text": (
        edited(
            lambda coco: [
                entry.update({k: str(v) for k, v in entry.items() if k.endswith("id")})
                for key in ("images", "annotations", "categories")
                for entry in coco[key]
            ]
        ),
        ACCEPTED,
    ),
    "ids of images as names": (every("images", id=lambda id: f"img{id}"), "image img5 .*'id'"),
    "crowds as text": (every("annotations", iscrowd="0"), ACCEPTED),
    "no areas": (every("annotations", area=-1), ACCEPTED),
    "flat masks": (every("annotations", segmentation=[0, 0, 9, 0, 9, 9]), ACCEPTED),
    "masks of nothing": (every("annotations", segmentation=None), ACCEPTED),
    "names twice": (every("categories", name="object"), "the same 'name', object"),
    "names of nothing": (every("categories", name=None), "category 20 .*'name' is missing"),
    "names that differ by blanks": (
        edited(lambda coco: coco["categories"].append({"id": 77, "name": " a "})),
        "the same .name., a",
    ),
    "names in other alphabets": (every("categories", name=lambda name: f"{name} 細胞/é"), ACCEPTED),
    "category from 0": (
        edited(lambda coco: [a.update(category_id=0) for a in coco["annotations"]]),
        "annotation 7 of image 5: 'category_id' 0 is not among the categories",
    ),
    "the same box twice": (
        edited(lambda coco: coco["annotations"].append(dict(coco["annotations"][0]))),
        ACCEPTED,
    ),
    "an image twice": (
        edited(lambda coco: coco["images"].append(dict(coco["images"][0]))),
        "two entries of image id 5",
    ),
    "sizes swapped": (
        edited(
            lambda coco: [i.update(width=i["height"], height=i["width"]) for i in coco["images"]]
        ),
        "own.json: 2 of 2 images have another size, first: .*five.jpg has 40x30 pixels",
    ),
    "no sizes": (every("images", width=None), "image 5 .*'width' is missing"),
    "path to a file that is not there": (every("images", file_name="six.jpg"), "six.jpg"),
    "path of another machine": (
        every("images", file_name=lambda name: f"C:\\data\\{name}"),
        "2 of 2 images have no file, first: .*C:",
    ),
    "box of NaN": (one_box("[1, 2, NaN, 4]"), "'bbox' is .*nan"),
    "box of infinity": (one_box("[1, 2, Infinity, 4]"), "'bbox' is .*inf"),
    "box of huge numbers": (one_box(f"[1, 2, {'9' * 400}, 4]"), "'bbox' is "),
    "box without size": (one_box("[1, 2, 0, 4]"), "no object to train on"),
    "box outside": (one_box("[100, 100, 5, 5]"), "no object to train on"),
    "box over the edge": (one_box("[-5, -5, 20, 20]"), ACCEPTED),
    "box of text": (one_box('["1", "2", "10", "20"]'), ACCEPTED),
    "boxes from 0 to 1": (
        every("annotations", bbox=[0.5, 0.5, 0.005, 0.005]),
        "no object to train on, .* look like shares of the image's sides, from 0 to 1",
    ),
    "no boxes": (text(COCO_TEXT % f'{CATEGORIES}, "annotations": []'), "no object to train on"),
    "ids of 70 bits": (every("images", id=2**70), "'id' is .*not an integer"),
    "ids of halves": (every("images", id=5.5), "'id' is 5.5, not an integer"),
    "ids below 0": (
        edited(
            lambda coco: (
                [image.update(id=-image["id"]) for image in coco["images"]],
                [a.update(image_id=-a["image_id"]) for a in coco["annotations"]],
            )
        ),
        ACCEPTED,
    ),
    "names of lines": (every("categories", name=lambda name: f"{name}\n{name}"), ACCEPTED),
    "names of markup": (every("categories", name=lambda name: f"<b>|{name}|"), ACCEPTED),
    "names that are paths": (every("categories", name=lambda name: f"../../{name}"), ACCEPTED),
    "long names": (every("categories", name=lambda name: name * 10_000), ACCEPTED),
    "no name of a file": (every("images", file_name=""), "'file_name' is missing"),
    "address of a file": (every("images", file_name="http://a.b/c.jpg"), "have no file, .*http:/"),
    "folder for a file": (every("images", file_name="."), "five|2 of 2 image files .*directory"),
    "blank behind a file": (every("images", file_name=lambda x: f"{x} "), "2 of 2 .* no file"),
    "capitals in a file": (every("images", file_name=lambda x: x.upper()), "2 of 2 .* no file"),
    "zero byte in a file": (every("images", file_name="a\0.jpg"), "2 of 2 images have no file"),
    "half a character in a file": (every("images", file_name="\ud800"), "2 of 2 .* no file"),
    "width in words": (every("images", width="40px"), "'width' is '40px', not a whole number"),
    "width of 0": (every("images", width=0), "'width' is 0, not a whole number"),
    "box by names": (every("annotations", bbox={"x": 1, "y": 2}), "'bbox' is .*not 4 finite"),
    "box with an angle": (every("annotations", bbox=[1, 2, 3, 4, 5]), "'bbox' is .*not 4 finite"),
    "box as one text": (every("annotations", bbox="[1, 2, 3, 4]"), "'bbox' is .*not 4 finite"),
    "box in a list more": (every("annotations", bbox=[[1, 2, 10, 10]]), ACCEPTED),
    "box of negative size": (every("annotations", bbox=[20, 20, -9, -9]), "no object to train on"),
    "all crowds": (every("annotations", iscrowd=1), "no object to train on"),
    "annotations of other images": (every("annotations", image_id=99), "no object to train on"),
    "area in words": (every("annotations", area="big"), "'area' is 'big', not a number"),
    "fields of one's own": (every("annotations", attributes={"a": [1, None]}), ACCEPTED),
    # image files
    "image empty": (
        image("five.jpg", b""),
        "1 of 2 image files cannot be used, .*five.jpg: it is e",
    ),
    "image of text": (
        image("five.jpg", b"<html>404</html>"),
        "five.jpg: Pillow cannot identify it",
    ),
    "image of another size": (image("five.jpg", jpeg((30, 40))), "five.jpg has 30x40 pixels"),
    "image cut off in its header": (
        image("five.jpg", jpeg()[:200]),
        "1 of 2 image files .*five.jpg",
    ),
    "image cut off": (image("five.jpg", jpeg()[:-20]), "Cannot read the image .*five.jpg"),
    "image is a folder": (
        lambda folder, coco: (
            (folder / "images/five.jpg").unlink(),
            (folder / "images/five.jpg").mkdir(),
        ),
        "five.jpg: .*irectory",
    ),
    "image is a pipe": (
        lambda folder, coco: (
            (folder / "images/five.jpg").unlink(),
            os.mkfifo(folder / "images/five.jpg"),
        ),
        "1 of 2 image files .*five.jpg: it is a directory, a pipe or a device",
    ),
    "image is a link to nothing": (
        lambda folder, coco: (
            (folder / "images/five.jpg").unlink(),
            (folder / "images/five.jpg").symlink_to("nothing.jpg"),
        ),
        "five.jpg: there is no such file",
    ),
    "image of markup": (
        image("five.jpg", b"<svg width='40' height='30'/>"),
        "Pillow cannot identify it",
    ),
    "image of an array": (image("five.jpg", saved_array()), "Pillow cannot identify it"),
    "image larger than memory": (image("five.jpg", png((60_000, 60_000))), "five.jpg: Image size"),
    "image of no pixels": (image("five.jpg", png((0, 0))), "1 of 2 image files .*five.jpg"),
    "image without its end": (image("five.jpg", png((40, 30))[:-12]), ACCEPTED),
    "image with more behind it": (image("five.jpg", jpeg() + b"x" * 999), ACCEPTED),
    "image with a broken tag": (image("five.jpg", jpeg(exif=b"Exif\0\0broken")), ACCEPTED),
    "image with a tag of 9": (image("five.jpg", jpeg(exif=orientation(9))), ACCEPTED),
    "image with a broken profile": (image("five.jpg", jpeg(icc_profile=b"broken")), ACCEPTED),
    "of 32 bits": (image("five.jpg", tiff("I", 70_000)), "its pixels go from 70000 to 70000"),
    "of floats": (image("five.jpg", tiff("F", 0.5)), "five.jpg: it has floating-point pixels"),
    "of four inks": (image("five.jpg", tiff("CMYK", (9, 9, 9, 9))), ACCEPTED),
    "in another colour space": (image("five.jpg", tiff("LAB", (50, 128, 128))), ACCEPTED),
    "grey": (image("five.jpg", pixels("L", 100)), ACCEPTED),
    "palette": (image("five.jpg", pixels("P", 3)), ACCEPTED),
    "black and white": (image("five.jpg", pixels("1", 1)), ACCEPTED),
    "transparent": (image("five.jpg", pixels("RGBA", (9, 9, 9, 0))), ACCEPTED),
    "16 bits": (image("five.jpg", pixels("I;16", 40000)), ACCEPTED),
}


@pytest.mark.parametrize("name", INPUTS)
def test_input(folder, coco, name):
    make, expected = INPUTS[name]
    make(folder, coco)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.RETINANET.NUM_CLASSES = "RetinaNet", 3
    cfg.DATASETS.COCO_FORMAT = [("own", str(folder / "own.json"), str(folder / "images"))]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("own",)
    cfg.OUTPUT_DIR = str(folder / "output")

    def use():
        check_datasets(cfg)
        build_evaluator(cfg, "own")
        mapper = DatasetMapper(cfg)
        return [mapper(record) for record in DatasetCatalog.get("own")]

    if expected is ACCEPTED:
        assert sum(len(mapped["instances"]) for mapped in use()) > 0
        return
    with pytest.raises((ValueError, OSError), match=expected) as error:
        use()
    assert is_user_error(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/b", "a\\b", "..", ".", "a\0b"])
def test_names_that_lead_elsewhere(folder, name):
    cfg = get_cfg()
    cfg.DATASETS.COCO_FORMAT = [(name, str(folder / "own.json"), str(folder / "images"))]
    cfg.DATASETS.TRAIN = (name,)
    with pytest.raises(ValueError, match="the name of a data set is part of file names"):
        check_datasets(cfg)
