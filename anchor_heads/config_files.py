"""Config files: found by path or by shipped name, and read without running code.

A shipped name is a path below ``configs/``, such as "free_anchor/free_anchor_R_50_FPN_1x.yaml".
"""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from anchor_heads import _layout
from anchor_heads.data.class_names import recall_classes

SUFFIX = ".yaml"
BASE = "_BASE_"


class ConfigFileError(ValueError):
    """A file is not a config; the message names it."""


class Config(CfgNode):
    """Detectron2's config node, whose files run no code.

    A file is named by its path or, if it is shipped, by its name; ``_BASE_`` likewise. Keys of the
    type float take whole numbers, too, which become floats.
    """

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Same as Detectron2's, where tags that run code are allowed by default.

        Data sets that are not available get the class names stored in the config of a run.

        Args:
            cfg_filename (str): path of a file, or name of a shipped config.
            allow_unsafe (bool): whether YAML tags of the file may make Python objects.

        Raises:
            FileNotFoundError: if there is no such config.
            ConfigFileError: if the file, or one that it builds on, is not a config.
        """
        path = find_config(cfg_filename)
        try:
            super().merge_from_file(path, allow_unsafe)
        except ConfigFileError:
            raise
        except (AssertionError, KeyError) as error:
            raise ConfigFileError(f"{path}: {error.args[0]}") from error
        except ValueError as error:  # its message has whole groups of keys in it
            key = str(error).rpartition("config key: ")[2]
            raise ConfigFileError(f"{path}: the value of {key} is of the wrong type.") from error
        except TypeError as error:
            raise ConfigFileError(f"{path}: a group of keys has a value instead.") from error
        recall_classes(self)

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict:
        """The content of a file over that of the files that its ``_BASE_`` names."""
        return _read(find_config(filename), allow_unsafe, children=())

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """Same as Detectron2's, also with nodes that other packages have added to this one."""
        _adopt(self)
        super().merge_from_other_cfg(_with_floats(cfg_other, self))

    def merge_from_list(self, cfg_list: list) -> None:
        """Same as Detectron2's."""
        cfg_list = list(cfg_list)
        for i, key in enumerate(cfg_list[:-1:2]):
            with suppress(AttributeError):  # there is no such key, as is said below
                cfg_list[2 * i + 1] = _as_float(cfg_list[2 * i + 1], attrgetter(key)(self))
        super().merge_from_list(cfg_list)


def _adopt(node: CfgNode) -> None:
    """Give all nodes below one type, which merging requires."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            node[name] = value = value if isinstance(value, Config) else Config(value)
            _adopt(value)


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of all values below a node, such as ("SOLVER.BASE_LR", 0.001), without groups.

    Args:
        node (CfgNode or dict): a config, or one as read from YAML.
        prefix (str): what the keys start with.
    """
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _with_floats(node: CfgNode, known: CfgNode) -> CfgNode:
    """A copy of a node, with floats where ``known`` has them."""
    node = node.clone()
    for name, value in node.items():
        if isinstance(value, CfgNode) and isinstance(known.get(name), CfgNode):
            node[name] = _with_floats(value, known[name])
        else:
            node[name] = _as_float(value, known.get(name))
    return node


def _as_float(value, known):
    """A whole number, or text of one, as a float if ``known`` is one; all else as it is."""
    is_whole = type(known) is float and re.fullmatch(r"[+-]?\d+", str(value))
    return float(value) if is_whole else value


def list_configs() -> list[str]:
    """The names of all models, sorted; the ``Base-*.yaml`` files they build on are left out."""
    return [name for name in _config_names() if "Base-" not in name]


def get_config_file(name: str) -> str:
    """The path of a config file.

    Args:
        name (str): name of the config, with or without ".yaml".

    Returns:
        str: absolute path, to be used with ``cfg.merge_from_file`` or ``--config-file``.

    Raises:
        ValueError: no config has that name; the message gives similar names.
    """
    full_name = name.removesuffix(SUFFIX) + SUFFIX
    names = _config_names()
    if full_name not in names:
        similar = difflib.get_close_matches(full_name, names, n=3, cutoff=0.5)
        hint = f"Similar names: {', '.join(similar)}. " if similar else ""
        raise ValueError(
            f"There is no config named '{name}'. {hint}"
            "anchor_heads.model_zoo.list_configs() returns all names."
        )
    return str(_layout.folder("configs") / full_name)


def find_config(config_file: str) -> str:
    """The path of a config: a file as it is, or a shipped config by name.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if PathManager.isfile(config_file):
        return config_file
    try:
        return get_config_file(config_file)
    except ValueError as error:
        raise FileNotFoundError(
            f"There is no config file {os.path.abspath(config_file)}. {error}"
        ) from None


def _config_names() -> list[str]:
    configs = _layout.folder("configs")
    return sorted(path.relative_to(configs).as_posix() for path in configs.rglob(f"*{SUFFIX}"))


# Detectron2's Base-RetinaNet.yaml computes its anchor sizes by a tag that evaluates Python.
_RETINANET_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also knows the one expression of Detectron2's own configs."""


def _known_expression(loader: yaml.SafeLoader, node: yaml.Node):
    if loader.construct_sequence(node) != [_RETINANET_SIZES]:
        raise yaml.constructor.ConstructorError(
            problem="it evaluates a Python expression", problem_mark=node.start_mark
        )
    return [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _known_expression)


def _read(path: str, allow_unsafe: bool, children: tuple[str, ...]) -> dict:
    if path in children:
        raise ConfigFileError(f"{path}: {BASE} leads back to this file.")
    if path.endswith(".py"):
        raise ConfigFileError(f"{path} is a Python config, which only train and eval take.")
    with PathManager.open(path, "r") as file:
        content = _parse(file, path, allow_unsafe)
    bases = content.pop(BASE, [])
    merged: dict = {}
    for base in bases if isinstance(bases, list) else [bases]:
        base = _find_base(str(base), path)
        _merge(_read(base, allow_unsafe, (*children, path)), merged, path)
    _merge(content, merged, path)
    return merged


def _parse(file: IO[str], path: str, allow_unsafe: bool) -> dict:
    try:
        content = yaml.load(file, yaml.UnsafeLoader if allow_unsafe else _Loader)
    except UnicodeDecodeError as error:
        raise ConfigFileError(f"{path} is not text in UTF-8 ({error}).") from None
    except yaml.constructor.ConstructorError as error:
        raise ConfigFileError(
            f"{path} has a YAML tag that could run code, so it was not read: {error.problem} "
            f"(line {error.problem_mark.line + 1}). Write the value itself."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigFileError(
            f"{path} is not a YAML file: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise ConfigFileError(f"{path} is not a config: it has no keys.")
    return content


def _find_base(base: str, path: str) -> str:
    """The file that ``_BASE_`` names: relative to the config file, or a shipped config."""
    expanded = os.path.expanduser(base)
    beside = expanded if "://" in base else str(Path(path).parent / expanded)
    if PathManager.isfile(beside):
        return beside
    try:
        return get_config_file(base)
    except ValueError as error:
        raise FileNotFoundError(
            f"{path}: {BASE} names {beside}, which is not a file. {error}"
        ) from None


def _merge(source: dict, target: dict, path: str) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and key in target:
            if not isinstance(target[key], dict):
                raise ConfigFileError(f"{path}: {key} has keys below it, but is a value in {BASE}.")
            _merge(value, target[key], path)
        else:
            target[key] = value
