"""The fields of COCO annotation files: what each may be, and how what converters write is read.

One row per field. A value of the plain type is left as it is. Another one that can mean only one
thing, such as "1" or [1] for an integer, is converted; everything else raises Unusable. ``null``
and empty text are the same as a field that is not there.
"""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

REQUIRED = object()  # there is no value that could stand for a missing one
ABSENT = object()  # a missing field stays missing

_NUMBERS = {int, float}
_WHOLE_NUMBER = re.compile(r"\s*[+-]?\d+(\.0*)?\s*")
_LARGEST_ID = 2**53  # exact in every JSON reader
_LARGEST_COORDINATE = 1e9
_LARGEST_PIXEL = 1e6  # of polygons: pycocotools crashes at 1e9, and takes long before
# COCO's evaluation leaves objects out that are larger.
_LARGEST_AREA = 1e10
_MIN_POLYGON = 6  # coordinates: three points


class Unusable(ValueError):
    """A value that cannot be read as what a field needs."""


class Kind(NamedTuple):
    """What a field holds."""

    what: str
    """For messages: "an integer"."""
    is_plain: Callable[[Any], bool]
    """Whether a value needs no conversion. Most need none, so it is fast."""
    read: Callable[[Any], Any]
    """Converts any other value. Returns None where it stands for a missing one; raises ValueError,
    TypeError or LookupError if it means nothing."""


class Field(NamedTuple):
    """A field of the entries of "images", "annotations" or "categories"."""

    name: str
    kind: Kind
    missing: Any = REQUIRED
    """The value of entries without one; REQUIRED or ABSENT."""


class Converted(NamedTuple):
    """What was done to a field of some entries."""

    indices: list[int]
    first: str
    """The first of the values that were converted, and what became of it."""


def read_field(field: Field, entries: list[dict]) -> Converted:
    """Convert a field of all entries, in place.

    Returns:
        Converted: which values were not of the plain type. Missing ones do not count.

    Raises:
        Unusable: if a value is missing or means nothing; has the arguments ``index`` of the entry
            and what is wrong.
    """
    name, (what, is_plain, read), missing = field
    converted = Converted([], "")
    for index, entry in enumerate(entries):
        value = entry.get(name)
        if is_plain(value):
            continue
        was_there = value is not None and value != ""
        try:
            new = read(value) if was_there else None
        except (ValueError, TypeError, LookupError, OverflowError):
            raise Unusable(index, f"'{name}' is {_show(value)}, not {what}") from None
        became = "taken as missing" if new is None else f"read as {_show(new)}"
        if new is None:
            if missing is REQUIRED:
                raise Unusable(index, f"'{name}' is missing: it has to be {what}")
            new = missing
        if new is ABSENT:
            entry.pop(name, None)
        else:
            entry[name] = new
        is_same = new == value and type(new) is type(value)
        if was_there and not is_same:
            if not converted.indices:
                converted = converted._replace(first=f"{_show(value)} {became}")
            converted.indices.append(index)
    return converted


def _show(value) -> str:
    """A value of a JSON file for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:50]}..."


def _unwrapped(value):
    """The item of a list with one item."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_integer(value):
    return type(value) is int and -_LARGEST_ID < value < _LARGEST_ID


def _read_integer(value):
    value = _unwrapped(value)
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        value = int(value.split(".")[0])
    elif type(value) is float and value.is_integer():
        value = int(value)
    if not _is_integer(value):
        raise ValueError
    return value


def _is_side(value):
    return type(value) is int and value > 0


def _read_side(value):
    value = _read_integer(value)
    if value <= 0:
        raise ValueError
    return value


def _read_annotation_id(value):
    """Annotations may be numbered anew, so an id that cannot be used is as good as none."""
    try:
        return _read_side(value)
    except ValueError:
        return None


def _is_text(value):
    return type(value) is str and value != ""


def _read_text(value):
    value = _unwrapped(value)
    if type(value) in _NUMBERS:
        value = str(value)
    if not _is_text(value):
        raise ValueError
    return value


def _is_name(value):
    """Blanks around a name are not part of it."""
    return _is_text(value) and value == value.strip()


def _read_name(value):
    value = _read_text(value).strip()
    return value or None


def _is_flag(value):
    return type(value) is int and value in (0, 1)


def _read_flag(value):
    value = _unwrapped(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return int(value.strip().lower() == "true")
    value = int(value) if isinstance(value, bool) else _read_integer(value)
    if not _is_flag(value):
        raise ValueError
    return value


def _read_number(value):
    value = _unwrapped(value)
    if isinstance(value, str):
        value = float(value)
    if type(value) not in _NUMBERS:
        raise ValueError
    return value


def _is_area(value):
    return type(value) in _NUMBERS and 0 < value <= _LARGEST_AREA


def _read_area(value):
    """Converters write 0 or -1 where they do not know it, and evaluation would leave these out."""
    value = _read_number(value)
    return value if _is_area(value) else None


def _are_numbers(values):
    return (
        set(map(type, values)) <= _NUMBERS
        and sum(values) < math.inf  # not NaN, which minimum and maximum may leave out
        and -_LARGEST_PIXEL < min(values, default=0)
        and max(values, default=0) < _LARGEST_PIXEL
    )


def _read_numbers(values):
    numbers = [_read_number(value) for value in values]
    if not _are_numbers(numbers):
        raise ValueError
    return numbers


def _is_box(value):
    return (
        type(value) is list
        and len(value) == 4
        and set(map(type, value)) <= _NUMBERS
        # NaN compares as False
        and all(-_LARGEST_COORDINATE < number < _LARGEST_COORDINATE for number in value)
    )


def _read_box(value):
    value = _unwrapped(value)
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError
    value = [_read_number(number) for number in value]
    if not _is_box(value):
        raise ValueError
    return value


def _is_polygons(value):
    return (
        type(value) is list
        and set(map(type, value)) == {list}
        and not any(len(polygon) % 2 for polygon in value)
        and _are_numbers(numbers := list(itertools.chain.from_iterable(value)))
        # points of a single polygon, each a list of its own
        and not (len(value) > 2 and len(numbers) == 2 * len(value))
    )


def _is_mask(value):
    return value == [] or _is_polygons(value)


def _read_mask(value):
    value = _unwrapped(value) if not _is_polygons(value) else value
    if isinstance(value, dict):
        return _read_rle(value)
    if not isinstance(value, list):
        raise ValueError
    if not value:
        return value
    if all(isinstance(item, list) for item in value):
        if _is_points(value):
            value = [value]
        return [_read_polygon(polygon) for polygon in value]
    return [_read_polygon(value)]


def _is_points(values):
    return len(values) >= 3 and all(isinstance(x, list) and len(x) == 2 for x in values)


def _read_polygon(value):
    if _is_points(value):
        value = list(itertools.chain.from_iterable(value))
    elif len(value) >= _MIN_POLYGON and len(value) % 2:
        raise ValueError
    return _read_numbers(value)


def _read_rle(value):
    height, width = (_read_side(side) for side in value["size"])
    counts = value["counts"]
    if isinstance(counts, str):
        lengths = _decoded_counts(counts)
    else:
        lengths = counts = [_read_integer(count) for count in counts]
    if min(lengths) < 0 or sum(lengths) != height * width:
        raise ValueError
    return {**value, "size": [height, width], "counts": counts}


def _decoded_counts(text: str) -> list[int]:
    """The run lengths of COCO's compressed text, which pycocotools decodes without any check.

    Each is written in characters of five bits with a sixth that says whether another follows, the
    lowest bits first, from the third on as the difference to the one before the last.
    """
    lengths, number, shift = [], 0, 0
    for code in text.encode("ascii"):
        code -= 48
        if not 0 <= code < 64:
            raise ValueError
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                number -= 1 << shift
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number, shift = 0, 0
    if shift or not lengths:
        raise ValueError
    return lengths


def _is_keypoints(value):
    return (
        type(value) is list
        and value != []
        and len(value) % 3 == 0
        and _are_numbers(value)
        and set(value[2::3]) <= {0, 1, 2}
    )


def _read_keypoints(value):
    if not isinstance(value, list):
        raise ValueError
    if not value:
        return None
    if all(isinstance(point, list) and len(point) == 3 for point in value):
        value = list(itertools.chain.from_iterable(value))
    value = _read_numbers(value)
    if not _is_keypoints(value):
        raise ValueError
    return value


def _is_names(value):
    return type(value) is list and value != [] and all(map(_is_text, value))


def _read_names(value):
    if not isinstance(value, list):
        raise ValueError
    return [_read_text(name) for name in value] or None


def _is_pairs(value):
    return (
        type(value) is list
        and value != []
        and all(
            type(pair) is list and len(pair) == 2 and all(map(_is_side, pair)) for pair in value
        )
    )


def _read_pairs(value):
    if not isinstance(value, list) or not all(len(pair) == 2 for pair in value):
        raise ValueError
    return [[_read_side(a), _read_side(b)] for a, b in value] or None


INTEGER = Kind("an integer", _is_integer, _read_integer)
SIDE = Kind("a whole number of pixels above 0", _is_side, _read_side)
ANNOTATION_ID = Kind("an integer above 0", _is_side, _read_annotation_id)
TEXT = Kind("text", _is_text, _read_text)
NAME = Kind("text", _is_name, _read_name)
FLAG = Kind("0 or 1", _is_flag, _read_flag)
AREA = Kind("a number of square pixels", _is_area, _read_area)
BOX = Kind("4 finite numbers (x, y, width, height)", _is_box, _read_box)
MASK = Kind(
    "a list of polygons [x0, y0, x1, y1, ...], nor run lengths whose 'counts' fill their 'size'",
    _is_mask,
    _read_mask,
)
KEYPOINTS = Kind(
    "a list of x, y and visibility (0, 1 or 2) of each keypoint", _is_keypoints, _read_keypoints
)
NAMES = Kind("a list of names", _is_names, _read_names)
PAIRS = Kind("a list of pairs of keypoints, counted from 1", _is_pairs, _read_pairs)

CATEGORY_FIELDS = (
    Field("id", INTEGER),
    Field("name", NAME),
    Field("keypoints", NAMES, ABSENT),
    Field("skeleton", PAIRS, ABSENT),
)
IMAGE_FIELDS = (
    Field("id", INTEGER),
    Field("file_name", TEXT),
    Field("width", SIDE),
    Field("height", SIDE),
)
ANNOTATION_FIELDS = (
    Field("id", ANNOTATION_ID, None),
    Field("image_id", INTEGER),
    Field("category_id", INTEGER),
    Field("bbox", BOX),
    Field("iscrowd", FLAG, 0),
    Field("ignore", FLAG, ABSENT),
    Field("area", AREA, None),
    Field("segmentation", MASK, ABSENT),
    Field("keypoints", KEYPOINTS, ABSENT),
)
