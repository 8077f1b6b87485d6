"""Messages of errors."""

import linecache

import pytest

from anchor_heads.errors import first_line, said_by_library, shorten


@pytest.mark.parametrize(
    "message, expected",
    [
        (["bad file\nTraceback: ..."], "bad file"),
        (["\n  bad file \nmore"], "bad file"),
        ([], "OSError"),
        ([""], "OSError"),
    ],
)
def test_the_first_line_of_a_message(message, expected):
    assert first_line(OSError(*message)) == expected


def test_items_are_listed_up_to_a_limit():
    assert shorten([1, 2, 3], 3) == "1, 2, 3"
    assert shorten(["a", "b", "c", "d"], 2) == "a, b, ..."
    assert shorten([]) == ""


@pytest.mark.parametrize(
    "has_source, expected", [(True, "check has 'assert x > 0'"), (False, "AssertionError")]
)
def test_an_assertion_of_a_library_without_a_message(monkeypatch, has_source, expected):
    source = "def check(x):\n    assert x > 0\n"
    if has_source:
        entry = (len(source), None, source.splitlines(keepends=True), "library.py")
        monkeypatch.setitem(linecache.cache, "library.py", entry)
    library = compile(source, "library.py", "exec")
    names = {"__name__": "detectron2.made"}
    exec(library, names)
    with pytest.raises(AssertionError) as raised:
        names["check"](0)
    raised.value.__traceback__ = raised.value.__traceback__.tb_next  # without this test's frame
    assert said_by_library(raised.value) == expected
