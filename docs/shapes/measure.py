"""Train the quick starts and evaluate them, for the tables of docs/results.md.

    python docs/shapes/measure.py && python docs/tables.py

Every training of RUNS without a result in docs/shapes/results is made in a process of its own, into
output/shapes. The command can be interrupted and goes on where it was. It ends by writing
docs/results/shapes_*.yaml.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from anchor_heads import model_zoo

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).parent / "results"
MODELS = {
    "retinanet": "RetinaNet",
    "free_anchor": "FreeAnchor",
    "ga_retinanet": "GA-RetinaNet",
    "da_retinanet": "DA-RetinaNet",
}
# Of models named so the gradients are not clipped.
UNCLIPPED = "_unclipped"
# Model and seed.
RUNS = [(name + end, seed) for end in ("", UNCLIPPED) for seed in range(3) for name in MODELS]
METRICS = ("AP", "AP50", "AP75")
# Evaluated also with test-time augmentation and by their NMS recall.
EVALUATED_FURTHER = (("retinanet", 0), ("free_anchor", 0))
FURTHER = ["TEST.NMS_RECALL", "True", "TEST.AUG.ENABLED", "True"]
FURTHER += ["TEST.AUG.MIN_SIZES", "(128, 160, 208)"]
FURTHER_METRICS = {
    "AP": "bbox/AP",
    "AP with augmentation": "bbox_TTA/AP",
    "NMS recall": "nms_recall/NR@0.5",
    "NMS recall at IoU 0.9": "nms_recall/NR90@0.5",
}


def train(model: str, seed: int) -> dict:
    """Train as the quick start does, evaluate, and return the result."""
    config = model.removesuffix(UNCLIPPED)
    overrides = ["SOLVER.CLIP_GRADIENTS.ENABLED", "False"] if model != config else []
    folder = ROOT / "output" / "shapes" / f"{model}-{seed}"
    start = _cpu_seconds()
    found = _command("train", config, folder, "SEED", str(seed), *overrides)
    seconds = _cpu_seconds() - start
    result = {
        "model": model,
        "seed": seed,
        "iterations": model_zoo.get_config(f"quick_start/{config}").SOLVER.MAX_ITER,
        **{metric: found[f"bbox/{metric}"] for metric in METRICS},
        "cpu seconds": round(seconds),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if (model, seed) in EVALUATED_FURTHER:
        weights = ("--weights", folder / "model_final.pth")
        found = _command("eval", config, folder / "further", *weights, *FURTHER)
        result["further"] = {name: found[metric] for name, metric in FURTHER_METRICS.items()}
    return result


def _command(name: str, config: str, folder: Path, *arguments) -> dict:
    """Run ``anchor-heads NAME``; returns the last metrics that it wrote."""
    command = [sys.executable, "-m", "anchor_heads", name, "--config-file", f"quick_start/{config}"]
    command += ["--output", folder, "--force", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "metrics.json").read_text("utf-8").splitlines()[-1])


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write_tables(results: list[dict]) -> None:
    for name, end, settings in (
        ("detection", "", ""),
        ("unclipped", UNCLIPPED, " with `SOLVER.CLIP_GRADIENTS.ENABLED False`"),
    ):
        runs = {
            f"{title} ({len(seeds)})": seeds
            for model, title in MODELS.items()
            if (seeds := [x for x in results if x["model"] == model + end])
        }
        _write(
            name,
            f"Shapes, val split, `configs/quick_start`{settings}: ResNet-18 from scratch, 4 images "
            "per iteration. Mean (minimum to maximum) over the seeds, whose number is in "
            "parentheses after the model. CPU time on one core, with the evaluation.",
            ["model", "iterations", *METRICS, "minutes"],
            [
                [title, seeds[0]["iterations"], *(_of_seeds(seeds, m) for m in METRICS)]
                + [_minutes(seeds)]
                for title, seeds in runs.items()
            ],
        )
    _write(
        "further",
        "Shapes, val split, models of seed 0. Augmentation: three scales and flips. NMS recall: "
        "at an NMS threshold of 0.5, its mean over the IoU between box and object, and at 0.9.",
        ["model", *FURTHER_METRICS],
        [
            [MODELS[x["model"]], *(round(x["further"][m], 1) for m in FURTHER_METRICS)]
            for x in results
            if "further" in x
        ],
    )


def _write(name: str, setting: str, columns: list[str], rows: list[list]) -> None:
    content = {
        "setting": setting,
        "command": "python docs/shapes/measure.py",
        "columns": columns,
        "rows": rows,
    }
    text = yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None)
    (ROOT / "docs" / "results" / f"shapes_{name}.yaml").write_text(text, encoding="utf-8")


def _of_seeds(seeds: list[dict], metric: str):
    values = [round(x[metric], 1) for x in seeds]
    return values if len(values) > 1 else values[0]


def _minutes(seeds: list[dict]) -> float:
    return round(sum(x["cpu seconds"] for x in seeds) / len(seeds) / 60, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=len(RUNS), help="trainings, at most")
    limit = parser.parse_args().limit
    RESULTS.mkdir(exist_ok=True)
    files = {run: RESULTS / f"{run[0]}-{run[1]}.json" for run in RUNS}
    for run in [run for run, file in files.items() if not file.exists()][:limit]:
        result = train(*run)
        files[run].write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(result, flush=True)
    done = [file for file in files.values() if file.exists()]
    write_tables([json.loads(file.read_text("utf-8")) for file in done])


if __name__ == "__main__":
    main()
