"""The set-up: what it says before it starts, and when it is taken for finished."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = ("Makefile", "requirements.txt", "requirements-detectron2.txt")
PYTHON_RANGE = "Missing: Python 3.10, 3.11 or 3.12"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def make(tmp_path):
    """Runs make in a folder with the files of the set-up, on a machine with hardly any commands."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("cat", "cmp", "make"):
        (commands / name).symlink_to(shutil.which(name))

    def run(*arguments):
        options = {"cwd": tmp_path, "env": {"PATH": str(commands)}}
        return subprocess.run(["make", *arguments], capture_output=True, text=True, **options)

    return run


def add_command(folder, name, script):
    command = folder / "bin" / name
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return command


def test_everything_that_is_missing_is_said_at_once(make):
    result = make("test")
    assert result.returncode != 0
    python, git, compiler = result.stderr.splitlines()[:3]
    assert python.startswith(PYTHON_RANGE) and "make PYTHON=" in python
    assert git.startswith("Missing: git")
    assert compiler.startswith("Missing: a C++ compiler for C++20")


def test_nothing_is_said_where_all_is_there(make, tmp_path):
    (tmp_path / "Python.h").touch()
    add_command(tmp_path, "python3", f'case "$2" in *sysconfig*) echo {tmp_path};; esac')
    for name in ("git", "g++"):
        add_command(tmp_path, name, "exit 0")
    result = make("check-machine")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_compiler_and_interpreter_of_ones_own_are_tried(make, tmp_path):
    for name in ("git", "g++"):
        add_command(tmp_path, name, "exit 0")
    result = make("check-machine", "PYTHON=python9", "CXX=old++ -m32")
    assert "PYTHON=python9 is none, or does not run." in result.stderr
    assert "to build Detectron2: old++ -m32 is none." in result.stderr


def test_first_interpreter_that_runs_is_taken(make, tmp_path):
    add_command(tmp_path, "python3.12", "echo 'command not found' >&2; exit 127")
    add_command(tmp_path, "python3.11", "exit 0")
    result = make("--dry-run", "set-up")
    assert "python3.11 -m venv --clear .venv" in result.stdout


def test_interpreter_without_venv_or_headers(make, tmp_path):
    script = 'case "$2" in *ensurepip*) exit 1;; *sysconfig*) echo /nowhere;; esac'
    python = add_command(tmp_path, "python3.10", script)
    errors = make("check-machine", f"PYTHON={python}").stderr
    assert f"Missing: the venv module of {python}" in errors
    assert f"Missing: the C headers of {python}" in errors
    assert PYTHON_RANGE not in errors


def test_set_up_is_finished_when_its_record_equals_the_requirements(make, tmp_path):
    (tmp_path / ".venv").mkdir()
    assert PYTHON_RANGE in make("venv").stderr  # begun, but with no record
    record = tmp_path / ".venv" / "installed.txt"
    record.write_text("".join((tmp_path / name).read_text() for name in FILES[1:]))
    result = make("venv")
    assert (result.returncode, result.stdout) == (0, "")
    with (tmp_path / "requirements.txt").open("a") as file:
        file.write("one-more==1.0\n")
    assert PYTHON_RANGE in make("venv").stderr


def test_an_environment_that_a_link_leads_to_is_not_cleared(make, tmp_path):
    for name in ("python3.11", "git", "c++"):
        add_command(tmp_path, name, "exit 0")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "pyvenv.cfg").touch()
    (tmp_path / ".venv").symlink_to(tmp_path / "shared")
    result = make("set-up", "-o", "check-machine")
    assert result.returncode != 0 and ".venv is a link" in result.stderr
    assert (tmp_path / "shared" / "pyvenv.cfg").exists()


def test_help_lists_the_targets(make, tmp_path):
    (tmp_path / "bin" / "awk").symlink_to(shutil.which("awk"))
    listed = [line.split()[1] for line in make().stdout.splitlines()]
    assert listed == "help venv quick-start test lint format docs wheel clean".split()
