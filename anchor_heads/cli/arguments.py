"""How commands name configs, weights and outputs: the same way everywhere."""

import argparse
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from detectron2.config import CfgNode

from anchor_heads import engine
from anchor_heads.config import get_cfg
from anchor_heads.export import ExportedPredictor, is_exported
from anchor_heads.files import open_and_rename
from anchor_heads.visualization.drawing import SCORE_THRESHOLD


def add_config(
    parser: argparse.ArgumentParser,
    inputs: str = "",
    *,
    several: bool = False,
    weights: str = "the config's MODEL.WEIGHTS",
    takes_exported: bool = False,
) -> None:
    """Add ``--config-file``, ``--weights``, the overrides, and positional arguments between them.

    :func:`parse` then gives "config_file", "weights", "opts" and "inputs", and the whole as
    "command".

    Args:
        parser (ArgumentParser): gets the arguments.
        inputs (str): what the positional arguments are called, such as "IMAGE"; "" = there are
            none.
        several (bool): whether there may be several configs; "config_file" and "weights" are then
            lists.
        weights (str): what stands for ``--weights`` by default; "" = there is no such option.
        takes_exported (bool): whether ``--weights`` may be an exported model, without a config.
    """
    parser.usage = "%(prog)s [OPTIONS] --config-file CONFIG"
    parser.usage += f"{inputs and f' {inputs} ...'} [KEY VALUE ...]"
    nargs = "+" if several else None
    parser.add_argument(
        "--config-file",
        metavar="CONFIG",
        help="path of a config, or name of a shipped one, such as quick_start/free_anchor; the "
        "first argument stands for it as well",
        nargs=nargs,
    )
    if weights:
        of = "each" if several else "the"
        parser.add_argument(
            "--weights",
            metavar="FILE",
            help=f"checkpoint of {of} model (default: {weights})",
            nargs=nargs,
        )
    parser.add_argument(
        "inputs",
        metavar=inputs or "KEY VALUE",
        nargs="*",
        help=("; then " if inputs else "")
        + "config keys and values in turn, such as MODEL.DEVICE cpu",
    )
    parser.set_defaults(
        opts=[],
        takes_inputs=bool(inputs),
        several_configs=several,
        takes_exported=takes_exported,
    )


def parse(parser: argparse.ArgumentParser, command_line: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, whose overrides may stand among options and inputs, too.

    Args:
        parser (ArgumentParser): with or without the arguments of :func:`add_config`.
        command_line (sequence of str): the arguments.

    Raises:
        ValueError: if there is no config.
    """
    if parser.get_default("opts") is None:
        return parser.parse_intermixed_args(command_line)
    others, overrides = _split_overrides(command_line)
    args = parser.parse_intermixed_args(others)
    args.opts = overrides
    args.command = shlex.join([*parser.prog.split(), *command_line])
    if not args.config_file and not _is_exported(args):
        if not args.inputs:
            raise ValueError("name a config: --config-file CONFIG")
        end = len(args.inputs) if args.several_configs else 1
        configs, args.inputs = args.inputs[:end], args.inputs[end:]
        args.config_file = configs if args.several_configs else configs[0]
    if not args.takes_inputs:  # then these are overrides whose first key is misspelt
        args.opts, args.inputs = args.inputs + args.opts, []
    return args


def load_config(args: argparse.Namespace) -> CfgNode:
    """The config with its overrides, and ``--weights``, if any, in MODEL.WEIGHTS.

    Raises:
        ValueError, FileNotFoundError: if there is no such config, key or file of weights.
    """
    if _is_exported(args):
        if args.config_file or args.opts:
            raise ValueError(f"{args.weights} is exported: name no config and no config keys")
        return ExportedPredictor(args.weights).config()
    return _load(args.config_file, args.opts, vars(args).get("weights"))


def load_configs(args: argparse.Namespace) -> list[CfgNode]:
    """Like :func:`load_config`, of several configs and as many or no weights."""
    weights = args.weights or [None] * len(args.config_file)
    if len(weights) != len(args.config_file):
        raise ValueError("--weights must name as many files as --config-file names configs")
    pairs = zip(args.config_file, weights, strict=True)
    return [_load(config_file, args.opts, file) for config_file, file in pairs]


def _load(config_file: str, overrides: Sequence[str], weights: str | None) -> CfgNode:
    cfg = engine.load_config(argparse.Namespace(config_file=config_file, opts=list(overrides)))
    if weights:
        check_weights(weights)
        cfg.MODEL.WEIGHTS = weights
    if is_exported(cfg.MODEL.WEIGHTS):
        raise ValueError(
            f"{cfg.MODEL.WEIGHTS} is exported, and only predict --weights runs it, without a "
            "config: name a checkpoint"
        )
    return cfg


def check_weights(file: str) -> None:
    """Raise FileNotFoundError if there is no such file; an address is not looked up."""
    if "://" not in file:
        check_file(file, "--weights")


def check_file(file: str, option: str) -> None:
    """Raise FileNotFoundError if there is no such file, which an option names."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"there is no file {os.path.abspath(file)} ({option})")


def _is_exported(args: argparse.Namespace) -> bool:
    return args.takes_exported and is_exported(args.weights)


def add_output(
    parser: argparse.ArgumentParser,
    metavar: str,
    help: str = "",
    *,
    alias: str = "--output-dir",
    **kwargs,
) -> None:
    """Add ``--output``, and ``--force``.

    Args:
        parser (ArgumentParser): gets the arguments.
        metavar (str): "FILE" or "FOLDER".
        help (str): what is written, if not all results.
        alias (str): what earlier versions called it, which still works.
        **kwargs: "default" or "required", as in ``add_argument``.
    """
    help = help or f"{metavar.lower()} to write"
    if "default" in kwargs:
        help += " (default: %(default)s)"
    parser.add_argument("--output", metavar=metavar, help=help, **kwargs)
    parser.add_argument(alias, dest="output", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_force(parser)


def add_class_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class-names",
        type=lambda names: [name.strip() for name in names.split(",")],
        metavar="NAMES",
        help="names of the model's classes, with commas between (default: those it was trained on)",
    )


def add_score_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--score-threshold",
        type=score,
        default=SCORE_THRESHOLD,
        help="detections with a lower score are left out (default: %(default)s)",
    )


def positive(text: str) -> int:
    """A whole number from 1 on, as the type of an argument."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def score(text: str) -> float:
    """A number from 0 to 1, as the type of an argument."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1")
    return value


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def check_outputs(outputs: Sequence[str], inputs: Iterable[str], force: bool) -> None:
    """Check that no file is overwritten that the user wants to keep.

    Args:
        outputs (sequence of str): files that will be written.
        inputs (iterable of str): files that will be read.
        force (bool): whether to overwrite files, but never one that is read.

    Raises:
        ValueError: if an output is an input as well.
        IsADirectoryError: if an output is a folder.
        FileExistsError: if an output exists, without ``force``.
    """
    written = {os.path.realpath(path) for path in outputs}
    for path in inputs:
        if os.path.realpath(path) in written:
            raise ValueError(f"{path} is read and would be overwritten: choose another output")
    for path in outputs:
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} is a folder: name a file")
    existing = [path for path in outputs if os.path.exists(path)]
    if existing and not force:
        raise FileExistsError(
            f"{len(existing)} of {len(outputs)} output files exist, the first being {existing[0]}: "
            "choose another output, or overwrite with --force"
        )


@contextmanager
def open_output(path: str) -> Iterator[IO[str]]:
    """Open a text file for writing, in a folder that is made if it is not there."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open_and_rename(path, "w", encoding="utf-8") as file:
        yield file


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other arguments, and the overrides: from a config key to the next option."""
    keys = get_cfg()
    others, overrides = [], []
    current = others
    for argument in arguments:
        if argument.startswith("--"):
            current = others
        elif argument.split(".")[0] in keys and not os.path.exists(argument):
            current = overrides
        current.append(argument)
    return others, overrides
