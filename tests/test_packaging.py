"""The wheel: built, installed alone, and used from another folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import anchor_heads

ROOT = Path(__file__).parent.parent
# What a build reads; builds of the checkout itself stay out.
SOURCES = ("anchor_heads", "configs", "projects", "LICENSE", "setup.py", "pyproject.toml")
SUFFIXES = (".py", ".md")

USE = """
import importlib.util, json, sys
import anchor_heads, anchor_heads.projects.free_anchor
from anchor_heads import model_zoo

model = model_zoo.get("quick_start/free_anchor", ["MODEL.DEVICE", "cpu"])
print(json.dumps({
    "library": anchor_heads.__file__,
    "method": anchor_heads.projects.free_anchor.__file__,
    "model": sys.modules[type(model).__module__].__file__,
    "config": model_zoo.get_config_file("free_anchor/free_anchor_R_50_FPN_1x.yaml"),
    "configs": model_zoo.list_configs(),
    "stranger": importlib.util.find_spec("anchor_heads.projects.stranger") is not None,
}))
"""


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def pip(*arguments, **options):
    return run(sys.executable, "-m", "pip", *arguments, **options)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the package, installed from its wheel."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("src", "whl", "target"))
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip("wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, cwd=source)
    (wheel,) = wheels.iterdir()
    assert wheel.name == f"anchor_heads-{anchor_heads.__version__}-py3-none-any.whl"
    pip("install", wheel, "--no-deps", "--no-index", "--target", target)
    return target


@pytest.fixture(scope="module")
def used(installed, tmp_path_factory):
    """What ``USE`` prints, run from another folder beside a stranger's package ``projects``."""
    (installed / "projects" / "stranger").mkdir(parents=True)
    (installed / "projects" / "stranger" / "__init__.py").touch()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = [str(installed), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    lines = run(sys.executable, "-c", USE, cwd=elsewhere, env=environment).splitlines()
    return json.loads(lines[-1])


def test_model_is_built_from_the_installed_package_alone(used, installed):
    package = installed / "anchor_heads"
    assert used["library"] == str(package / "__init__.py")
    assert used["method"] == str(package / "projects/free_anchor/__init__.py")
    assert used["model"] == str(package / "projects/free_anchor/retinanet.py")
    assert used["config"] == str(package / "configs/free_anchor/free_anchor_R_50_FPN_1x.yaml")


def test_commands_run_from_any_folder(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    options = {"cwd": tmp_path, "env": environment}
    version = run(sys.executable, installed / "bin/anchor-heads", "--version", **options)
    assert version == f"anchor-heads {anchor_heads.__version__}\n"
    words = ["analyze", "quick_start/free_anchor", "--image-size", "64", "64"]
    said = run(sys.executable, "-m", "anchor_heads", *words, **options)
    assert said.startswith("quick_start/free_anchor: one image of 64x64.")


def test_every_config_is_in_the_wheel(used, installed):
    shipped = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    configs = installed / "anchor_heads/configs"
    assert {path.relative_to(configs) for path in configs.rglob("*.yaml")} == shipped
    assert len(used["configs"]) == sum("Base-" not in str(path) for path in shipped)


def test_every_module_and_method_page_is_in_the_wheel(installed):
    def files(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in SUFFIXES}

    package = installed / "anchor_heads"
    library, methods = files(ROOT / "anchor_heads"), files(ROOT / "projects")
    assert files(package) == library | {Path("projects") / path for path in methods}


def test_a_strangers_projects_folder_is_not_picked_up(used):
    assert used["stranger"] is False


def test_metadata(installed):
    (metadata,) = installed.glob("anchor_heads-*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    assert "Name: anchor-heads" in lines
    assert "Requires-Python: >=3.10" in lines
    assert any(line.startswith("Requires-Dist: torch>=") for line in lines)
    assert not any("detectron2" in line for line in lines if line.startswith("Requires-Dist"))
