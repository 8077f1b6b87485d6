"""Reading image files in the frame of their annotations, without losing what they hold in silence.

A photograph may have an EXIF tag that says how its stored pixels are to be turned. Annotations are
either of the turned image, which viewers show, or of the stored one; the sizes in the annotation
file say which.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import ExifTags, Image

# In records of data sets in Detectron2's format: True if the annotations are of the stored pixels.
STORED_FRAME = "annotated_on_stored_pixels"

# By the value of the EXIF tag; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAP_SIDES = (5, 6, 7, 8)
_LARGEST_16_BIT = 2**16 - 1
_THREADS = 16
_HEADERS_PER_TASK = 64


class ImageFileError(OSError):
    """An image file cannot be read, or cannot be used with its annotations. Names the file."""


class ImageHeader(NamedTuple):
    """What the header of an image file says."""

    size: tuple[int, int]
    """Width and height of the stored pixels."""
    orientation: int
    """The EXIF tag, from 1 (upright) to 8."""
    wrong: str = ""
    """Why the file cannot be used, or nothing."""

    @property
    def turned_size(self) -> tuple[int, int]:
        """Width and height of the image as viewers show it."""
        return self.size[::-1] if self.orientation in _SWAP_SIDES else self.size


def read_record_image(record: dict, format: str = "BGR") -> np.ndarray:
    """Read the image of a data set's record, in the frame of its annotations.

    As Detectron2's ``read_image`` does it, where nothing would be lost: pixels of 16 bits are
    scaled to 8, and transparent ones are laid on white. Pixels of 32 bits are scaled like those of
    16, and kept if none is above 255.

    Args:
        record (dict): in Detectron2's data set format. Its "width" and "height" decide whether the
            image is turned as its EXIF tag says. Without them it is; where both frames have this
            size, it is unless the record has STORED_FRAME.
        format (str): "BGR", or another that Detectron2's ``read_image`` knows.

    Returns:
        ndarray: (H, W, C) uint8, of the size that the record has.

    Raises:
        ImageFileError: if it cannot be read, is not complete, holds floats or has another size.
    """
    path = record["file_name"]
    try:
        with _open(path) as file, Image.open(file) as image:
            orientation = _orientation(image)
            is_turned = _is_turned(record, ImageHeader(image.size, orientation))
            image = _eight_bits_without_alpha(image, path)
            if is_turned and orientation in _TURNS:
                image = image.transpose(_TURNS[orientation])
            return convert_PIL_to_numpy(image, format)
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:  # decoding a broken file may raise anything
        raise ImageFileError(f"Cannot read the image {path}: {_reason(path, error)}") from error


def _is_turned(record, header):
    turned = header.turned_size
    size = (record.get("width", turned[0]), record.get("height", turned[1]))
    if size not in (turned, header.size):
        raise ImageFileError(_other_size(record["file_name"], header, size))
    is_stored = record.get(STORED_FRAME, False) and size == header.size
    return size == turned and not is_stored


def read_headers(paths: Iterable[str], behind_pixels: bool = False) -> list[ImageHeader]:
    """Read the headers of image files, in threads. Files that cannot be used say why.

    Args:
        paths (iterable of str): of the files.
        behind_pixels (bool): whether to look for EXIF tags behind the pixels of PNG files, too,
            for which they are decoded.
    """
    paths = list(paths)
    tasks = [paths[i : i + _HEADERS_PER_TASK] for i in range(0, len(paths), _HEADERS_PER_TASK)]

    def read(paths):
        return [_header_of_file(path, behind_pixels) for path in paths]

    with ThreadPoolExecutor(_THREADS) as pool:
        return [header for headers in pool.map(read, tasks) for header in headers]


def is_stored_frame(
    json_file: str,
    paths: Sequence[str],
    headers: Sequence[ImageHeader],
    sizes: Sequence[tuple[int, int]],
) -> bool:
    """Whether annotations are of the stored pixels of images that EXIF tags turn.

    It follows from the images whose size the tag changes. Where there are none, annotations are of
    the turned images.

    Args:
        json_file (str): the annotation file, for messages.
        paths (sequence of str): of the image files.
        headers (sequence of ImageHeader): of the same files.
        sizes (sequence of tuple): the width and height that their annotations are for.

    Raises:
        ImageFileError: if an image has another size, or if the annotations of some are of the
            stored pixels and those of others of the turned image.
    """
    other, stored, turned = [], [], []
    for path, header, size in zip(paths, headers, sizes, strict=True):
        if size == header.size[::-1] != header.turned_size:  # a tag behind the pixels may turn it
            (header,) = read_headers([path], behind_pixels=True)
        if size not in (header.size, header.turned_size):
            other.append(_other_size(path, header, size))
        elif size != header.turned_size:
            stored.append(path)
        elif size != header.size:
            turned.append(path)
    if other:
        raise ImageFileError(
            f"{json_file}: {len(other)} of {len(paths)} images have another size, first: "
            f"{other[0]}. Correct 'width' and 'height', or use the files that were annotated"
        )
    if stored and turned:
        raise ImageFileError(
            f"{json_file}: the sizes of {len(stored)} images are those of the stored pixels, first "
            f"{stored[0]}, and those of {len(turned)} images are as their EXIF tags turn them, "
            f"first {turned[0]}. Write all annotations for the same frame"
        )
    return bool(stored)


def _open(path):
    if not os.path.isfile(path) and os.path.exists(path):  # a pipe would be waited for
        raise OSError("it is a directory, a pipe or a device")
    return PathManager.open(path, "rb")


def _header_of_file(path, behind_pixels):
    try:
        with _open(path) as file, Image.open(file) as image:
            wrong = _FLOATS if image.mode == "F" else ""
            return ImageHeader(image.size, _orientation(image, behind_pixels), wrong)
    except Exception as error:  # a broken file may raise anything
        return ImageHeader((0, 0), 1, _reason(path, error))


def _other_size(path, header, size):
    found = " or ".join(dict.fromkeys(f"{w}x{h}" for w, h in (header.turned_size, header.size)))
    return f"{path} has {found} pixels, and its annotations are for {size[0]}x{size[1]}"


_FLOATS = "it has floating-point pixels: convert it to 8 bits, with the range that is right for it"


def _reason(path, error):
    if not os.path.exists(path):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty" if os.path.getsize(path) == 0 else "Pillow cannot identify it"
    return str(error) or type(error).__name__


def _orientation(image, behind_pixels=True):
    # Pillow decodes a whole PNG to look for a tag behind its pixels.
    if not behind_pixels and image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken tag is as good as none
        return 1


def _eight_bits_without_alpha(image, path):
    if image.mode == "F":
        raise ImageFileError(f"Cannot read the image {path}: {_FLOATS}")
    if image.mode.startswith("I"):
        image = _scaled_to_eight_bits(image, path)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            log_first_n(
                logging.WARNING,
                f"{path} has transparent pixels, laid on white. Others are not named.",
                name=__name__,
            )
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def _scaled_to_eight_bits(image, path):
    """Grey pixels of 16 or 32 bits, which Pillow would cut off at 255."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > _LARGEST_16_BIT:
        raise ImageFileError(
            f"Cannot read the image {path}: its pixels go from {pixels.min()} to {pixels.max()}: "
            "convert it to 8 bits, with the range that is right for it"
        )
    if pixels.max() < 256:
        if image.mode == "I":  # 32 bits, which do not say what white is
            return Image.fromarray(pixels.astype(np.uint8))
        log_first_n(
            logging.WARNING,
            f"{path} has 16 bits per pixel and none above 255, so that it becomes black. If its "
            "values are meant for 8 bits, convert it to 8 bits. Others are not named.",
            name=__name__,
        )
    log_first_n(
        logging.WARNING,
        f"{path} has 16 bits per pixel, scaled to 8 bits: 65535 becomes 255. Others are not named.",
        name=__name__,
    )
    return Image.fromarray((pixels >> 8).astype(np.uint8))
