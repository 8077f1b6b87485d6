import io
import logging
from collections import Counter

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import ExifTags, Image

from anchor_heads.data.image_files import (
    STORED_FRAME,
    ImageFileError,
    is_stored_frame,
    read_headers,
    read_record_image,
)

# Of 6x4 pixels (width x height), all different.
PIXELS = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)


def write(path, pixels=PIXELS, orientation=None, **options):
    if orientation:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return str(path)


def read(path, format="BGR"):
    return read_record_image({"file_name": path}, format)


@pytest.mark.parametrize("orientation", [None, *range(9), 77])
def test_images_are_turned_as_detectron2_turns_them(tmp_path, orientation):
    path = write(tmp_path / "x.png", orientation=orientation)
    np.testing.assert_array_equal(read(path), detectron2_read_image(path, "BGR"))
    record = {"file_name": path, "width": 6, "height": 4, STORED_FRAME: True}
    np.testing.assert_array_equal(read_record_image(record, "RGB"), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_modes_that_lose_nothing_are_as_in_detectron2(tmp_path, mode):
    path = write(tmp_path / "x.tif", Image.fromarray(PIXELS).convert(mode))
    np.testing.assert_array_equal(read(path), detectron2_read_image(path, "BGR"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled(tmp_path, suffix, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("anchor_heads"), "propagate", True)
    monkeypatch.setattr("detectron2.utils.logger._LOG_COUNTER", Counter())
    grey = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    path = write(tmp_path / f"x.{suffix}", grey)
    expected = np.array([[0, 0, 1], [128, 255, 255]], np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(read(path)[:, :, channel], expected)
    assert "scaled to 8 bits" in caplog.text and "becomes black" not in caplog.text
    assert read(write(tmp_path / f"dark.{suffix}", grey // 257)).max() == 0
    assert f"dark.{suffix} has 16 bits per pixel and none above 255, so that it bec" in caplog.text


def test_32_bits_are_kept_if_they_are_values_of_8(tmp_path):
    grey = np.array([[0, 1, 100], [128, 254, 255]], np.int32)
    np.testing.assert_array_equal(read(write(tmp_path / "8.tif", grey))[:, :, 1], grey)
    np.testing.assert_array_equal(read(write(tmp_path / "16.tif", grey * 256))[:, :, 1], grey)


def test_floats_and_32_bits_are_refused(tmp_path):
    floats = write(tmp_path / "floats.tif", np.ones((4, 6), np.float32))
    with pytest.raises(ImageFileError, match=r"floats\.tif: it has floating-point pixels: convert"):
        read(floats)
    large = write(tmp_path / "large.tif", np.full((4, 6), 70000, np.int32))
    with pytest.raises(ImageFileError, match=r"large\.tif: its pixels go from 70000 to 70000"):
        read(large)
    assert "floating-point" in read_headers([floats])[0].wrong


def test_transparent_pixels_are_laid_on_white(tmp_path):
    alpha = np.full((4, 6, 1), 255, np.uint8)
    opaque = write(tmp_path / "opaque.png", np.concatenate([PIXELS, alpha], 2))
    np.testing.assert_array_equal(read(opaque, "RGB"), PIXELS)
    alpha[:2] = 0
    clear = write(tmp_path / "clear.png", np.concatenate([PIXELS, alpha], 2))
    np.testing.assert_array_equal(read(clear, "RGB")[:2], 255)
    np.testing.assert_array_equal(read(clear, "RGB")[2:], PIXELS[2:])
    grey = write(tmp_path / "grey.png", np.concatenate([PIXELS[:, :, :1], alpha], 2))
    assert read(grey)[:2].min() == 255


def test_broken_files_are_named(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.tile(PIXELS, (20, 20, 1))).save(whole, "jpeg")
    contents = {
        "cut.jpg": whole.getvalue()[:-400],
        "empty.jpg": b"",
        "text.jpg": b"no image",
        "header.jpg": whole.getvalue()[:20],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in [*contents, "absent.jpg"]:
        with pytest.raises(ImageFileError, match=f"Cannot read the image {tmp_path / name}: ."):
            read(str(tmp_path / name))
    headers = read_headers(str(tmp_path / name) for name in [*contents, "absent.jpg"])
    assert [bool(header.wrong) for header in headers] == [False, True, True, True, True]
    assert headers[0].size == (120, 80)
    assert headers[1].wrong == "it is empty"


def test_records_are_read_in_the_frame_of_their_annotations(tmp_path):
    path = write(tmp_path / "x.png", orientation=6)
    record = {"file_name": path, "width": 6, "height": 4}
    np.testing.assert_array_equal(read_record_image(record, "RGB"), PIXELS)
    turned = {"file_name": path, "width": 4, "height": 6}
    np.testing.assert_array_equal(read_record_image(turned), detectron2_read_image(path, "BGR"))
    np.testing.assert_array_equal(read(path), detectron2_read_image(path, "BGR"))
    with pytest.raises(ImageFileError, match="x.png has 4x6 or 6x4 pixels, .* for 6x5"):
        read_record_image({**record, "height": 5})

    square = write(tmp_path / "square.png", PIXELS[:, :4], orientation=6)
    record = {"file_name": square, "width": 4, "height": 4}
    np.testing.assert_array_equal(read_record_image(record), detectron2_read_image(square, "BGR"))
    np.testing.assert_array_equal(
        read_record_image({**record, STORED_FRAME: True}, "RGB"), PIXELS[:, :4]
    )


def test_a_tag_behind_the_pixels_is_found(tmp_path):
    """Of a PNG, whose header does not show it."""
    path = write(tmp_path / "x.png", orientation=6)
    content = open(path, "rb").read()
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.rindex(b"IEND") - 4
    with open(path, "wb") as file:
        file.write(content[:start] + content[stop:end] + content[start:stop] + content[end:])
    (header,) = read_headers([path])
    assert header.turned_size == (6, 4)
    assert read_headers([path], behind_pixels=True)[0].turned_size == (4, 6)
    for size in ((6, 4), (4, 6)):
        assert is_stored_frame("x.json", [path], [header], [size]) is False
        image = read_record_image({"file_name": path, "width": size[0], "height": size[1]})
        assert image.shape[1::-1] == size


def test_the_frame_of_a_data_set_follows_from_its_sizes(tmp_path):
    paths = [
        write(tmp_path / "upright.png"),
        write(tmp_path / "turned.jpg", orientation=8),
        write(tmp_path / "square.webp", PIXELS[:, :4], orientation=8),
    ]
    headers = read_headers(paths)
    assert [header.orientation for header in headers] == [1, 8, 8]
    of_stored = [(6, 4), (6, 4), (4, 4)]
    assert is_stored_frame("x.json", paths, headers, of_stored) is True
    assert is_stored_frame("x.json", paths, headers, [(6, 4), (4, 6), (4, 4)]) is False
    assert is_stored_frame("x.json", paths[::2], headers[::2], [(6, 4), (4, 4)]) is False
    with pytest.raises(ImageFileError, match="x.json: 1 of 3 images have another size, .*up"):
        is_stored_frame("x.json", paths, headers, [(4, 6), (6, 4), (4, 4)])
    with pytest.raises(ImageFileError, match="of 1 images are those of the stored pixels, first"):
        is_stored_frame("x.json", paths * 2, headers * 2, [*of_stored, (6, 4), (4, 6), (4, 4)])
