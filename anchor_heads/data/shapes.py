"""The shapes data set: small drawn images in COCO format, for quick starts and tests.

``python -m anchor_heads.data.shapes OUT`` writes ``OUT/train.json``, ``OUT/val.json`` and the
images in ``OUT/train/`` and ``OUT/val/``, the same bytes every time.

An image is 192x160, 160x192 or 160x160 pixels of textured ground with strokes and crosses as
clutter, and 1 to 8 objects: rectangles, ellipses and triangles (pointing up or down), each filled
with a texture of any colour that stands out from the ground, so that only the shape tells the
class. Height over width is 0.5, 1 or 2 and every side is 12 to 90 pixels long. An object lies
wholly inside the image and may be covered in part by later ones, but not by more than 35 % in all.
Its box is the tight box of the full shape, covered parts included; ``area`` is the box's area.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np

from anchor_heads.files import open_and_rename

CLASSES = ("rectangle", "ellipse", "triangle")
IMAGE_SIZES = ((192, 160), (160, 192), (160, 160))  # (width, height)
ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height / width
MIN_SIDE, MAX_SIDE = 12, 90  # pixels
MAX_OBJECTS = 8
MIN_VISIBLE = 0.65  # share of an object's pixels that later objects leave uncovered
MIN_CONTRAST = 80  # difference to the ground in at least one colour channel, of 255

SPLITS = ("train", "val")
DESCRIPTION = "anchor_heads shapes"
VERSION = "1"  # to be raised when the drawing changes: sets of another version are made anew
JPEG_QUALITY = 90
PLACEMENT_TRIES = 20


def make_shapes(out: str | Path, train: int = 800, val: int = 100, seed: int = 0) -> bool:
    """Write the shapes data set, unless it is already there.

    The annotation file of a split is written last: a set that was interrupted is made anew.
    Image ``i`` of a split depends on the seed alone, not on how many images there are.

    Args:
        out (str or Path): folder of the data set, made if needed.
        train, val (int): number of images, at least 1.
        seed (int): 0 to 2**32 - 1.

    Returns:
        bool: False if the complete set was there already.

    Raises:
        FileExistsError: if ``out`` holds annotation files of another data set.
        OSError: if ``out`` is a file or cannot be written.
    """
    out = Path(out)
    missing = [
        (split, info)
        for split, count in zip(SPLITS, (train, val), strict=True)
        if not _is_complete(out, split, info := _info(split, count, seed))
    ]
    for split, info in missing:
        _make_split(out, split, info)
    return bool(missing)


def how_to_make(name: str, json_file: str) -> str:
    """The command that makes a data set of the quick start; nothing for other data sets.

    Args:
        name (str): its name.
        json_file (str): where its annotation file should be.
    """
    folder, file = os.path.split(json_file)
    if (name, file) not in {(f"shapes_{split}", f"{split}.json") for split in SPLITS}:
        return ""
    return f"Make it with: python -m anchor_heads.data.shapes {os.path.relpath(folder)}"


def draw_image(rng: np.random.RandomState) -> tuple[np.ndarray, list]:
    """Draw one image.

    Args:
        rng (np.random.RandomState): the source of everything random; its stream is frozen.

    Returns:
        tuple: the image, BGR uint8 of shape (H, W, 3), and a list of ``(class index, x, y, w, h)``
        with 1 to 8 objects in the order of painting, in whole pixels.
    """
    width, height = IMAGE_SIZES[rng.randint(len(IMAGE_SIZES))]
    image = rng.uniform(30, 225, 3) + _texture(rng, width, height, {64: 20, 16: 12, 4: 8, 1: 6})
    _draw_clutter(rng, image)

    objects, sizes = [], []
    owner = np.zeros((height, width), np.int64)  # 0 = ground, k = the k-th object
    for _ in range(rng.randint(1, MAX_OBJECTS + 1)):
        for _ in range(PLACEMENT_TRIES):
            label, x, y, w, h, mask = _random_object(rng, width, height)
            region = (slice(y, y + h), slice(x, x + w))
            after = owner.copy()
            after[region][mask >= 0.5] = len(objects) + 1
            visible = np.bincount(after.ravel(), minlength=len(objects) + 2)[1:]
            if np.all(visible[:-1] >= MIN_VISIBLE * np.array(sizes)):
                _paint(rng, image[region], mask[:, :, None])
                owner = after
                objects.append((label, x, y, w, h))
                sizes.append(visible[-1])
                break
    brightness = rng.uniform(0.6, 1.2)
    return np.clip(np.rint(image * brightness), 0, 255).astype(np.uint8), objects


def coverage(name: str, width: int, height: int, upside_down: bool = False) -> np.ndarray:
    """How much of each pixel a shape covers that just fits into ``width`` x ``height`` pixels.

    Args:
        name (str): one of ``CLASSES``.
        upside_down (bool): turn the shape over; seen in triangles only.

    Returns:
        np.ndarray: (height, width), 0 to 1 in steps of 1/16.
    """
    x = (np.arange(4 * width) + 0.5) / (2 * width) - 1
    y = ((np.arange(4 * height) + 0.5) / (2 * height) - 1)[:, None]
    inside = {
        "rectangle": np.ones((y.size, x.size), bool),
        "ellipse": x**2 + y**2 <= 1,
        "triangle": np.abs(x) <= (1 + (-y if upside_down else y)) / 2,
    }[name]
    return inside.reshape(height, 4, width, 4).mean((1, 3))


def _random_object(rng, width, height):
    label = rng.randint(len(CLASSES))
    ratio = ASPECT_RATIOS[rng.randint(len(ASPECT_RATIOS))]
    longest_short_side = MAX_SIDE / max(ratio, 1 / ratio)
    short_side = rng.randint(MIN_SIDE, int(longest_short_side) + 1)
    w, h = int(short_side * max(1, 1 / ratio)), int(short_side * max(1, ratio))
    x, y = rng.randint(width - w + 1), rng.randint(height - h + 1)
    return label, x, y, w, h, coverage(CLASSES[label], w, h, upside_down=rng.randint(2) == 1)


def _paint(rng, canvas, mask):
    """Fill ``mask`` (h, w, 1) on ``canvas`` (h, w, 3), in place."""
    height, width = mask.shape[:2]
    ground = canvas.mean((0, 1))
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - ground).max() < MIN_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    fill = colour + _texture(rng, width, height, {16: 14, 4: 8, 1: 6})
    canvas += mask * (fill - canvas)


def _texture(rng, width, height, amplitudes):
    """Noise of several grain sizes, (height, width, 3) around 0.

    Args:
        amplitudes (dict): grain in pixels -> standard deviation.
    """
    texture = np.zeros((height, width, 3))
    for grain, amplitude in amplitudes.items():
        noise = rng.normal(0, amplitude, (height // grain + 2, width // grain + 2, 3))
        texture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return texture


def _draw_clutter(rng, image):
    """Draw strokes and crosses of random colours on ``image``, in place."""
    height, width = image.shape[:2]
    for _ in range(rng.randint(7)):
        centre = np.array([rng.randint(width), rng.randint(height)])
        angle, length = rng.uniform(0, np.pi), rng.uniform(4, 20)
        arm = length * np.array([np.cos(angle), np.sin(angle)])
        colour, thickness = rng.uniform(0, 255, 3).tolist(), rng.randint(1, 4)
        arms = (arm, arm[::-1] * (1, -1)) if rng.randint(2) else (arm,)
        for arm in arms:
            ends = [np.rint(centre + sign * arm).astype(int).tolist() for sign in (-1, 1)]
            cv2.line(image, *ends, colour, thickness)


def _make_split(out, split, info):
    (out / split).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(info["images"]):
        rng = np.random.RandomState([info["seed"], SPLITS.index(split), index])
        pixels, objects = draw_image(rng)
        _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (out / split / _file_name(index)).write_bytes(jpeg.tobytes())
        height, width = pixels.shape[:2]
        images.append(
            {"id": index + 1, "file_name": _file_name(index), "width": width, "height": height}
        )
        annotations += [
            {
                "id": len(annotations) + k,
                "image_id": index + 1,
                "category_id": label + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for k, (label, *box) in enumerate(objects, start=1)
        ]
    coco = {
        "info": info,
        "licenses": [{"id": 1, "name": "Apache License 2.0"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
    }
    with open_and_rename(out / f"{split}.json", "w") as file:
        json.dump(coco, file)


def _is_complete(out, split, info):
    """Whether the split as ``info`` describes it is there, with all its images."""
    json_file = out / f"{split}.json"
    if not json_file.exists():
        return False
    try:
        found = json.loads(json_file.read_text())["info"]
        ours = found["description"] == DESCRIPTION
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise FileExistsError(
            f"{json_file} belongs to another data set and is left as it is: "
            "name another folder for the shapes"
        )
    names = {_file_name(index) for index in range(info["images"])}
    return found == info and (out / split).is_dir() and names <= set(os.listdir(out / split))


def _info(split, count, seed):
    return {
        "description": DESCRIPTION,
        "version": VERSION,
        "split": split,
        "images": count,
        "seed": seed,
    }


def _file_name(index):
    return f"{index:06d}.jpg"


def main(argv: list[str] | None = None) -> None:
    """The command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m anchor_heads.data.shapes",
        description="Make the shapes data set in COCO format, the same bytes every time.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the data set")
    parser.add_argument("--train", type=_at_least(1), default=800, help="images to train on")
    parser.add_argument("--val", type=_at_least(1), default=100, help="images to evaluate on")
    parser.add_argument("--seed", type=_at_least(0), default=0)
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        sys.exit(f"error: {args.out} is a file: name a folder for the data set")
    try:
        made = make_shapes(args.out, args.train, args.val, args.seed)
    except OSError as error:
        sys.exit(f"error: the shapes data set cannot be written to {args.out}: {error}")
    verb = "made" if made else "already there"
    print(f"{args.out}: {args.train} train and {args.val} val images {verb}")


def _at_least(least):
    def integer(text):
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return integer


if __name__ == "__main__":
    main()
