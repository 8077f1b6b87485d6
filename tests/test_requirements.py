"""Importing the package: what it says without its requirements, and that it changes nothing."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from anchor_heads import _requirements

ROOT = Path(__file__).parent.parent


def run_python(code, *path):
    """Run ``code`` with the folders of ``path`` and then the checkout first in ``sys.path``."""
    folders = [str(folder) for folder in (*path, ROOT)]
    script = f"import sys\nsys.path[:0] = {folders}\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def import_error(code, *path):
    """The message that the first use of the package ends with after ``code``."""
    result = run_python(textwrap.dedent(code) + "\nfrom anchor_heads import get_cfg", *path)
    assert result.returncode == 1
    *_, last = result.stderr.partition("\nImportError: ")
    assert last, result.stderr
    return last


def fake_package(folder, name, version, **modules):
    """A package with nothing but a version and the given modules: their source by name."""
    (folder / name).mkdir()
    for module, source in {"__init__": "", **modules}.items():
        (folder / name / f"{module}.py").write_text(f'__version__ = "{version}"\n{source}\n')


PIP = f"  {sys.executable} -m pip"
INSTALL_TORCH = f"{PIP} install torch==2.14.1 torchvision==0.29.1\n"
REMOVE_DETECTRON2 = f"{PIP} uninstall --yes detectron2\n"
INSTALL_DETECTRON2 = (
    f"{PIP} install 'setuptools<81' wheel ninja\n"
    f"{PIP} install --no-build-isolation --no-cache-dir 'detectron2 @ git+https://github.com/"
    "facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833'\n"
)


def test_without_torch():
    message = import_error("sys.modules['torch'] = None")
    assert message.startswith(f"anchor_heads needs torch >= {_requirements.MIN_TORCH}, found none.")
    assert message.endswith("Install it with\n" + INSTALL_TORCH)


def test_torch_too_old(tmp_path):
    fake_package(tmp_path, "torch", "1.13.1+cu117")
    message = import_error("", tmp_path)
    assert f"found torch 1.13.1+cu117 in {tmp_path}/torch/__init__.py" in message
    # Detectron2 has to be built again for the new torch.
    assert message.endswith(INSTALL_TORCH + REMOVE_DETECTRON2 + INSTALL_DETECTRON2)


def test_without_detectron2():
    message = import_error("sys.modules['detectron2'] = None")
    assert message.startswith("anchor_heads needs Detectron2, found none.")
    assert message.endswith("Install it with\n" + INSTALL_DETECTRON2)


def test_detectron2_too_old(tmp_path):
    fake_package(tmp_path, "detectron2", "0.5", engine="class TrainerBase: pass")
    message = import_error("", tmp_path)
    assert f"Detectron2, found version 0.5 in {tmp_path}/detectron2, which" in message
    assert "'TrainerBase' has no attribute 'after_backward'" in message
    assert message.endswith(REMOVE_DETECTRON2 + INSTALL_DETECTRON2)


def test_detectron2_too_old_for_pillow(tmp_path):
    fake_package(tmp_path, "detectron2", "0.6", engine="from PIL import Image; Image.LINEAR")
    message = import_error("", tmp_path)
    assert "fails with: module 'PIL.Image' has no attribute 'LINEAR'. Install it with\n" in message


def test_folder_named_detectron2_is_none(tmp_path):
    (tmp_path / "detectron2").mkdir()
    fake_package(tmp_path, "torch", "2.14.1")
    hide_the_real_one = """
        from pathlib import Path
        sys.path = [p for p in sys.path if not Path(p, "detectron2", "__init__.py").exists()]
    """
    message = import_error(hide_the_real_one, tmp_path)
    assert f"found version unknown in {tmp_path}/detectron2, which fails with: No module" in message


@pytest.mark.parametrize("package, module", [("torch", "__init__"), ("detectron2", "engine")])
def test_a_dependency_that_is_missing_speaks_for_itself(tmp_path, package, module):
    fake_package(tmp_path, package, "2.14.1", **{module: "import no_such_module"})
    errors = run_python("from anchor_heads import get_cfg", tmp_path).stderr
    assert errors.endswith("\nModuleNotFoundError: No module named 'no_such_module'\n")


@pytest.mark.parametrize(
    "version, is_older",
    [("2.8.0", True), ("1.13.1+cu117", True), ("2.9", False), ("2.10.0a0+git1f2", False)],
)
def test_versions_are_compared_as_numbers(version, is_older):
    assert _requirements.is_older(version, "2.9") == is_older


def test_messages_name_the_pinned_requirements():
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    assert set(_requirements.TORCH.split()) <= set(pinned)
    assert (ROOT / "requirements-detectron2.txt").read_text().strip() == _requirements.DETECTRON2


def test_import_leaves_detectron2_defaults_alone():
    code = """
        from detectron2.config import get_cfg
        before = get_cfg().dump()
        import anchor_heads
        anchor_heads.get_cfg().MODEL.FREE_ANCHOR
        assert get_cfg().dump() == before
    """
    result = run_python(code)
    assert result.returncode == 0, result.stderr
