"""The documents: what they name exists."""

import argparse
import importlib
import inspect
import itertools
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from anchor_heads import get_cfg
from anchor_heads.cli.main import COMMANDS
from anchor_heads.config import METHODS

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "MODEL_ZOO.md",
    ROOT / "anchor_heads/checkpoint/README.md",
    *sorted(ROOT.glob("projects/*/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
CODE_BLOCK = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
CONFIG_FOLDERS = "|".join(path.name for path in (ROOT / "configs").iterdir() if path.is_dir())
CONFIG = re.compile(rf"(?<![\w./])(?:configs/)?((?:{CONFIG_FOLDERS})/[\w.]*\w)")
TOP_LEVEL_KEYS = "|".join(x for x, value in get_cfg().items() if not isinstance(value, CfgNode))
KEY = re.compile(
    r"(?<![\w.])(?:(?:MODEL|SOLVER|TEST|DATASETS|DATALOADER|INPUT)\.[A-Z0-9_.{},]*[A-Z0-9_]"
    rf"|(?:{TOP_LEVEL_KEYS})\b)"
)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


def code_of(page: Path) -> list[str]:
    """The lines of code of a page, in blocks and in sentences, without comments."""
    text = page.read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ") for block in CODE_BLOCK.findall(text)]
    lines = [line.split(" #")[0] for block in blocks for line in block.splitlines()]
    return lines + CODE.findall(CODE_BLOCK.sub("", text))


def commands(page: Path, *programs: str) -> list[list[str]]:
    """The words of each command that runs one of the programs."""
    found, lines = [], iter(code_of(page))
    for line in lines:
        if line.split()[:1] and line.split()[0] in programs:
            while line.count("'") % 2:  # a value goes on in the next line
                line += " " + next(lines)
            found.append(shlex.split(line))
    return found


def flatten(node: CfgNode, prefix: str = "") -> dict[str, object]:
    keys = {}
    for name, value in node.items():
        keys[prefix + name] = value
        if isinstance(value, CfgNode):
            keys |= flatten(value, f"{prefix}{name}.")
    return keys


def test_links_lead_to_files_of_the_repository(page):
    targets = [target for target in LINK.findall(CODE_BLOCK.sub("", page.read_text("utf-8")))]
    missing = [x for x in targets if "://" not in x and not (page.parent / x).exists()]
    assert missing == []


def test_configs_exist(page, logged):
    """Names such as "free_anchor/bag_probability" are no configs but logged in training."""
    names = {name.removesuffix(".yaml") for line in code_of(page) for name in CONFIG.findall(line)}
    configs = {path.relative_to(ROOT / "configs").as_posix() for path in ROOT.glob("configs/*/*")}
    assert names <= logged | {config.removesuffix(".yaml") for config in configs}


@pytest.fixture(scope="module")
def logged():
    code = "".join(path.read_text() for path in ROOT.glob("projects/*/*.py"))
    return set(re.findall(r'"(\w+/\w+)"', code))


def test_config_keys_exist(page):
    known = flatten(get_cfg())
    text = page.read_text(encoding="utf-8")
    assert [key for key in KEY.findall(text) if not set(alternatives(key)) <= known.keys()] == []


def test_documented_values_are_taken(page):
    """Of the keys and values in sentences, such as `VIS_PERIOD 100`."""
    code = CODE.findall(CODE_BLOCK.sub("", page.read_text("utf-8")))
    cfg = get_cfg()
    for override in filter(re.compile(rf"{KEY.pattern} [^{{}}]+").fullmatch, code):
        cfg.merge_from_list(shlex.split(override))


def test_every_function_that_adds_keys_is_in_their_reference():
    page = (ROOT / "docs/config_keys.md").read_text()
    functions = re.findall(r"^    ([\w.]+)\(cfg\)", inspect.getsource(get_cfg), re.MULTILINE)
    assert "add_run_config" in functions and len(METHODS) == 3
    names = [
        *functions,
        *(f"{method.__name__.split('.')[-1]}.config.add_config" for method in METHODS),
    ]
    assert [name for name in names if f"{name}\n" not in page] == []


def alternatives(key: str) -> list[str]:
    """ "A.{B,C}.D" as "A.B.D" and "A.C.D"."""
    parts = [part.strip("{}").split(",") for part in re.findall(r"\{[^}]*\}|[^{]+", key)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = [word for _, *words in commands(page, "make") for word in words]
    assert [word for word in words if "=" not in word and word not in targets] == []


def test_commands_have_the_options_they_are_given(page):
    wrong = []
    for _, command, *words in filter(lambda words: words[1:], commands(page, "anchor-heads")):
        if command == "COMMAND":
            continue
        given = {x.strip("[]") for x in words if x.strip("[]")[:2] == "--"}
        wrong += [(command, option) for option in given - options_of_command(command)]
    assert wrong == []


def options_of_command(name):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"anchor_heads.cli.{name.replace('-', '_')}").add_arguments(parser)
    return set(parser._option_string_actions)


def test_scripts_have_the_options_they_are_given(page, options_of):
    wrong = []
    for words in commands(page, "python", "torchrun"):
        script = next((word for word in words if word.endswith(".py")), None)
        if script is None:  # python -c or -m
            continue
        given = {x.strip("[]") for x in words[words.index(script) :] if x.strip("[]")[:2] == "--"}
        wrong += [(script, option) for option in given - options_of(script)]
    assert wrong == []


@pytest.fixture(scope="module")
def options_of():
    """The options of a script of the repository, as its own argument parser knows them."""

    class Parser(Exception):
        pass

    def tell(parser, *args, **kwargs):
        raise Parser(parser)

    known = {}

    def options(script: str) -> set[str]:
        if script not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [script])
                for method in ("parse_args", "parse_intermixed_args"):
                    patch.setattr(argparse.ArgumentParser, method, tell)
                with pytest.raises(Parser) as raised:
                    runpy.run_path(str(ROOT / script), run_name="__main__")
            known[script] = set(raised.value.args[0]._option_string_actions)
        return known[script]

    return options


def test_it_is_said_which_commands_lack_a_common_option():
    rows = re.findall(
        r"^\| `(--[\w-]+)` \|.*\|(.*)\|$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE
    )
    assert [option for option, _ in rows] == ["--config-file", "--weights", "--output", "--force"]
    for option, names in rows:
        lacking = {name for name in COMMANDS if option not in options_of_command(name)}
        assert set(CODE.findall(names)) == lacking


def test_every_command_is_described():
    page = (ROOT / "docs/commands.md").read_text()
    assert [x for x in COMMANDS if f"anchor-heads {x}" not in page] == []
