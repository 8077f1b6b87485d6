"""The package: the library, the methods of ``projects/`` and the configs, in one wheel."""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

LIBRARY = Path(__file__).parent / "anchor_heads"
VERSION = re.search(r'^__version__ = "(.+)"$', (LIBRARY / "__init__.py").read_text(), re.MULTILINE)
REQUIREMENTS = runpy.run_path(str(LIBRARY / "_requirements.py"))
METHODS = {
    f"anchor_heads.projects.{name}": f"projects/{name.replace('.', '/')}"
    for name in find_packages("projects")
}
CONFIGS = {"anchor_heads.configs": "configs"}

setup(
    name="anchor-heads",
    version=VERSION[1],
    description="Learned anchor strategies for Detectron2",
    author="The anchor_heads authors",
    license="Apache-2.0",
    python_requires=">=3.10",
    # Detectron2 is on no package index, and OpenCV comes under two names: neither can be asked
    # for here. The package says at import how Detectron2 is installed.
    install_requires=[
        f"torch>={REQUIREMENTS['MIN_TORCH']}",
        "torchvision",
        "numpy",
        "fvcore",
        "pycocotools>=2.0.8",
        "matplotlib",
        "jinja2",
    ],
    # What only some models, commands or keys need.
    extras_require={
        "export": ["onnx", "onnxscript", "onnxruntime"],
        "mlflow": ["mlflow"],
        "sahi": ["sahi"],
        "supervision": ["supervision"],
        "timm": ["timm>=1.0"],
        "trackio": ["trackio"],
        "wandb": ["wandb"],
    },
    packages=[*find_packages(include=["anchor_heads", "anchor_heads.*"]), *METHODS, *CONFIGS],
    package_dir=METHODS | CONFIGS,
    entry_points={"console_scripts": ["anchor-heads = anchor_heads.cli.main:main"]},
    package_data={
        "anchor_heads.configs": ["**/*.yaml"],
        "anchor_heads.analysis.comparison": ["*.html"],
        **{name: ["*.md"] for name in ("anchor_heads.checkpoint", *METHODS)},
    },
)
