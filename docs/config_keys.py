"""The reference of the config keys that this package adds, read off the code that adds them.

A key is described by the comment above its assignment; one comment may stand above several.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from itertools import groupby

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from anchor_heads.config import add_run_config, get_cfg
from anchor_heads.modeling.backbone import add_backbone_config
from anchor_heads.projects import dynamic_anchor, free_anchor, guided_anchoring

SECTIONS = {
    "Any run": add_run_config,
    "Backbones": add_backbone_config,
    "Guided Anchoring": guided_anchoring.add_config,
    "FreeAnchor": free_anchor.add_config,
    "Dynamic Anchor": dynamic_anchor.add_config,
}
KEY_IN_TEXT = re.compile(r"(?<![`\w.])[A-Z][A-Z0-9]*[._][A-Z0-9_.]*[A-Z0-9](?![`\w])")


def reference() -> str:
    """The Markdown of the reference: a section for each function that adds keys."""
    defaults = added_keys()
    parts = []
    for title, add_config in SECTIONS.items():
        comments = read_comments(add_config)
        parts += [f"### {title}", _introduction(add_config)]
        for comment, names in groupby(comments, comments.get):
            terms = [f"`{name}` = `{defaults[name]!r}`" for name in names if name in defaults]
            text = KEY_IN_TEXT.sub(r"`\g<0>`", comment)
            parts.append("\n".join([*terms, f":   {text}"]) if terms else text)
    return "\n\n".join(part for part in parts if part)


def added_keys() -> dict[str, object]:
    """Name and default of every key that Detectron2's own config lacks."""
    known = _flatten(get_detectron2_cfg())
    return {name: value for name, value in _flatten(get_cfg()).items() if name not in known}


def read_comments(add_config: Callable[[CfgNode], None]) -> dict[str, str]:
    """The comments above the assignments of a function that adds keys to ``cfg``.

    Returns:
        dict[str, str]: by the full name of a key or node, in the order of the code. A node that is
        a clone has the comments of the original.
    """
    lines = textwrap.dedent(inspect.getsource(add_config)).splitlines()
    names = {"cfg": ""}  # of the nodes that variables stand for
    comments, comment = {}, ""
    for statement in ast.parse("\n".join(lines)).body[0].body:
        if not isinstance(statement, ast.Assign):
            continue
        above = _comment_above(lines, statement.lineno - 1)
        comment = comment if above is None else above
        name = _full_name(statement.targets[-1], names)
        names |= {target.id: name for target in statement.targets if isinstance(target, ast.Name)}
        comments.setdefault(name, comment)
        if ast.unparse(statement.value).endswith(".clone()"):
            original = _full_name(statement.value.func.value, names)
            for key in [key for key in comments if key.startswith(f"{original}.")]:
                comments[key.replace(original, name, 1)] = comments[key]
    return comments


def _comment_above(lines: list[str], row: int) -> str | None:
    """The comment that ends above a row; None if code does, "" if nothing."""
    comment = []
    while (line := lines[row - 1].strip()).startswith("#"):
        comment.insert(0, line.lstrip("# "))
        row -= 1
    return " ".join(comment) if comment or not line else None


def _full_name(target: ast.expr, names: dict[str, str]) -> str:
    variable, _, rest = ast.unparse(target).partition(".")
    return f"{names[variable]}.{rest}".strip(".")


def _introduction(add_config: Callable[[CfgNode], None]) -> str:
    """The function's docstring after its first sentence, which only says that it adds keys."""
    _, _, text = inspect.getdoc(add_config).partition(". ")
    return text.replace("``", "`")


def _flatten(node: CfgNode, prefix: str = "") -> dict[str, object]:
    keys = {}
    for name, value in node.items():
        is_node = isinstance(value, CfgNode)
        keys |= _flatten(value, f"{prefix}{name}.") if is_node else {prefix + name: value}
    return keys
