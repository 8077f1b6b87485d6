"""``anchor-heads COMMAND ...``"""

import argparse
import importlib
from collections.abc import Sequence

from anchor_heads import __version__
from anchor_heads._requirements import check_requirements
from anchor_heads.cli.errors import run_command, silence_warnings

# Each is a module of this package, with dashes for underscores, that has a docstring for its help
# and two functions: add_arguments(parser), and run(args), which returns the exit code or None. It
# is imported when it is called, since torch takes seconds.
COMMANDS = {
    "train": "train a model, or resume a run",
    "eval": "evaluate a model",
    "predict": "run a model over images, videos or a camera",
    "show-detections": "draw ground truth beside detections for images of the test set",
    "visualize": "draw the anchors of a model on images",
    "diagnose": "check a config against its training data",
    "compare": "compare the anchors and results of models on a data set",
    "analyze": "count parameters, multiply-adds and activations",
    "benchmark": "measure time and memory",
    "export": "write a model to ONNX, TorchScript or torch.export",
    "convert-weights": "convert published weights of other frameworks",
    "convert-dataset": "convert a Pascal VOC or YOLO data set into COCO format",
}


def main(command_line: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        command_line (sequence of str or None): name and arguments; None for those of the process.

    Returns:
        int: the exit code.
    """
    parser = argparse.ArgumentParser(
        prog="anchor-heads",
        description="Learned anchor strategies for Detectron2.",
        epilog=f"commands:\n{_summaries()}\n\nanchor-heads COMMAND --help lists its arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"anchor-heads {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS)
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER)
    args = parser.parse_args(command_line)
    silence_warnings()
    return run_command(f"anchor-heads {args.command}", run, args.command, args.arguments)


def run(command: str, command_line: Sequence[str]) -> int | None:
    """Run a command without turning errors into messages; see :func:`main`."""
    check_requirements()
    arguments = importlib.import_module("anchor_heads.cli.arguments")
    module = importlib.import_module(f"anchor_heads.cli.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"anchor-heads {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.run(arguments.parse(parser, command_line))


def _summaries() -> str:
    return "\n".join(f"  {name:<16} {summary}" for name, summary in COMMANDS.items())
