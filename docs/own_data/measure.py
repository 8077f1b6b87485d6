"""Compare the anchor strategies on data sets of one's own: one command, which can be interrupted.

    python docs/own_data/measure.py --data DIR --weights tf_efficientnet_lite0.pth

DIR has a folder for each data set with train.json, test.json and images/. Every run of the list
docs/own_data/runs.txt that has no result file yet is trained and evaluated in a process of its own;
its result goes to docs/own_data/results/<data set>/<model>-<seed>.json, its config and weights to
the folder of that name. All runs on a data set have the same backbone, images, input size and
schedule, unless their line of the list overrides them.
"""

import argparse
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import hooks
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from detectron2.utils.logger import setup_logger
from pycocotools.coco import COCO

from anchor_heads import model_zoo
from anchor_heads.analysis.diagnosis import DiagnosisInput, diagnose
from anchor_heads.analysis.recipe import recipe
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.engine import Trainer
from anchor_heads.evaluation.proposal_recall import average_recall, matched_overlaps

HERE = Path(__file__).parent
RUNS, RESULTS = HERE / "runs.txt", HERE / "results"

# The budget, the same for all. On a larger machine: more iterations, larger images.
BUDGET = {
    "INPUT.MIN_SIZE_TRAIN": (240,),
    "INPUT.MIN_SIZE_TEST": 240,
    # Half of the images on average, and all of their width.
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [480, 480],
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_ITER": 240,
    "SOLVER.WARMUP_ITERS": 20,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
}
TEST_IMAGES = 30
LIMITS = (30, 100, 300, 1000)
# Longer side over shorter side of the object's box.
ASPECT_RATIOS = {"to 2": (1, 2), "to 4": (2, 4), "to 8": (4, 8), "over 8": (8, np.inf)}
PROPOSALS = ["MODEL.META_ARCHITECTURE", "ProposalNetwork"]

# Model: config and overrides. A name may be followed by _suggested, for the anchors that diagnose
# suggests, and by _p3, for the levels of Detectron2's RetinaNet, without P2.
MODELS = {
    "retinanet": ("retinanet", []),
    "free_anchor": ("free_anchor", []),
    "ga_retinanet": ("ga_retinanet", []),
    "da_retinanet": ("da_retinanet", []),
    "rpn": ("faster_rcnn", PROPOSALS),
    "free_anchor_rpn": ("free_anchor_faster_rcnn", PROPOSALS),
    "ga_rpn": ("ga_faster_rcnn", PROPOSALS),
    "da_rpn": ("da_faster_rcnn", PROPOSALS),
    "faster_rcnn": ("faster_rcnn", []),
    "free_anchor_faster_rcnn": ("free_anchor_faster_rcnn", []),
    "ga_faster_rcnn": ("ga_faster_rcnn", []),
    "da_faster_rcnn": ("da_faster_rcnn", []),
}


def run_config(model: str, data: Path, seed: int, weights: str, overrides: list):
    """The config of a run, its data sets registered."""
    config, changes = MODELS[model.removesuffix("_p3").removesuffix("_suggested")]
    cfg = model_zoo.get_config(f"own_data/{config}", changes)
    if model.endswith("_p3"):
        for levels in (cfg.MODEL.FPN, cfg.MODEL.RETINANET):
            levels.IN_FEATURES = levels.IN_FEATURES[1:]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = cfg.MODEL.ANCHOR_GENERATOR.SIZES[1:]
    name = data.name
    cfg.DATASETS.COCO_FORMAT = [
        (f"{name}_{part}", str(data / f"{part}.json"), str(data / "images"))
        for part in ("train", "test")
    ]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"{name}_train",), (f"{name}_test",)
    cfg.MODEL.TIMM.CHECKPOINT = weights
    cfg.SEED = seed
    for key, value in BUDGET.items():
        cfg.merge_from_list([key, value])
    register_coco_format(cfg)
    classes = len(MetadataCatalog.get(f"{name}_train").thing_classes)
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    if "_suggested" in model:
        suggest_anchors(cfg)
    case = DiagnosisInput.from_config(cfg)
    for item in recipe(case.strategy, case.data.objects.sides).items():
        cfg.merge_from_list(list(item))
    cfg.merge_from_list(overrides)
    return cfg


def suggest_anchors(cfg) -> None:
    """Change sizes and aspect ratios as diagnose suggests, until it has no more to suggest. Input
    size and levels stay, for all models have the same."""
    anchors = {"MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"}
    for _ in range(3):
        suggestions = [x.suggestion.changes for x in diagnose(cfg).findings.values()]
        changes = {}
        for suggestion in suggestions:
            if set(suggestion) <= anchors and None not in suggestion.values():
                changes |= suggestion
        for item in changes.items():
            cfg.merge_from_list(list(item))


class Run(Trainer):
    """A training that is evaluated at a quarter, a half and all of its iterations."""

    def build_hooks(self):
        last = self.cfg.SOLVER.MAX_ITER
        self.curve = {}
        kept = [h for h in super().build_hooks() if isinstance(h, (hooks.LRScheduler,))]
        return [
            *kept,
            hooks.CallbackHook(after_step=lambda trainer: trainer.look(last)),
            hooks.PeriodicWriter(self.build_writers()[:1], period=20),
        ]

    def look(self, last):
        done = self.iter + 1
        if done in (last // 4, last // 2, last):
            start = time.process_time()
            self.model.eval()
            self.curve[done] = evaluate(self.cfg, self.model, self.tuning)
            self.curve[done]["seconds"] = round(time.process_time() - start, 1)
            self.model.train()
            print(
                done,
                {k: v for k, v in self.curve[done].items() if k != "by aspect ratio"},
                flush=True,
            )


@torch.no_grad()
def evaluate(cfg, model, tuning: bool) -> dict:
    """AR of proposals or detections by limit and aspect ratio; of detections also AP. Settings are
    compared with ``tuning``, on other images than those of the tables."""
    data = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    coco = COCO(data.json_file)
    images = sorted(coco.getImgIds())
    step = max(1, len(images) // TEST_IMAGES)
    images = set(images[step // 2 if tuning else 0 :: step][:TEST_IMAGES])
    overlaps, ratios, detections, counted = defaultdict(list), [], [], 0
    for (inputs,) in Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]):
        if inputs["image_id"] not in images:
            continue
        (output,) = model([inputs])
        found = output.get("proposals", output.get("instances")).to("cpu")
        boxes = found.proposal_boxes if "proposals" in output else found.pred_boxes
        scores = found.objectness_logits if "proposals" in output else found.scores
        boxes = boxes[scores.argsort(descending=True)]
        counted += len(boxes)
        gt = [a["bbox"] for a in coco.imgToAnns[inputs["image_id"]] if not a.get("iscrowd")]
        gt = torch.tensor(gt, dtype=torch.float32).reshape(-1, 4)
        sides = gt[:, 2:].clamp(min=1e-3)
        ratios.append((sides.amax(1) / sides.amin(1)).numpy())
        gt = Boxes(BoxMode.convert(gt, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
        iou = pairwise_iou(boxes, gt).numpy()
        for limit in LIMITS:
            overlaps[limit].append(matched_overlaps(iou[:limit]))
        if "instances" in output:
            xywh = BoxMode.convert(boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            order = found.scores.argsort(descending=True)
            ids = {v: k for k, v in data.thing_dataset_id_to_contiguous_id.items()}
            detections += [
                {"image_id": inputs["image_id"], "bbox": b, "score": s, "category_id": ids[c]}
                for b, s, c in zip(
                    xywh.tolist(),
                    found.scores[order].tolist(),
                    found.pred_classes[order].tolist(),
                    strict=True,
                )
            ]
    ratios = np.concatenate(ratios)
    overlaps = {limit: np.concatenate(x) for limit, x in overlaps.items()}
    result = {f"AR@{limit}": 100 * average_recall(x) for limit, x in overlaps.items()}
    result["by aspect ratio"] = {
        name: {
            f"AR@{limit}": 100 * average_recall(x[(ratios >= low) & (ratios < high)])
            for limit, x in overlaps.items()
        }
        | {"objects": int(((ratios >= low) & (ratios < high)).sum())}
        for name, (low, high) in ASPECT_RATIOS.items()
    }
    if "instances" in output:
        result |= average_precision(coco, detections, sorted(images))
    result["boxes per image"] = counted / len(images)
    return result


def average_precision(coco, detections, images) -> dict:
    from pycocotools.cocoeval import COCOeval

    if not detections:
        return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.params.imgIds = images
    evaluation.params.maxDets = [1, 10, max(100, max_objects(coco))]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]

    def mean(x):
        return 100 * float(x[x > -1].mean())

    return {"AP": mean(precision), "AP50": mean(precision[0]), "AP75": mean(precision[5])}


def max_objects(coco) -> int:
    return max(map(len, coco.imgToAnns.values()))


def measure(
    model: str, data: Path, seed: int, weights: str, overrides: list, tuning: bool, output: Path
):
    """Train and evaluate one model, and write the result file."""
    cfg = run_config(model, data, seed, weights, overrides)
    cfg.OUTPUT_DIR = str(output.with_suffix(""))
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    Path(cfg.OUTPUT_DIR, "config.yaml").write_text(cfg.dump())
    setup_logger(name="fvcore")
    torch.manual_seed(seed)
    start, cpu = time.time(), time.process_time()
    run = Run(cfg)
    run.tuning = tuning
    run.train()
    run.checkpointer.save("model_final")
    result = {
        "model": model,
        "data": data.name,
        "seed": seed,
        "iterations": cfg.SOLVER.MAX_ITER,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "short side": cfg.INPUT.MIN_SIZE_TEST,
        "test images": TEST_IMAGES,
        "tuning": tuning,
        "learning rate": cfg.SOLVER.BASE_LR,
        "overrides": overrides,
        "sizes": cfg.MODEL.ANCHOR_GENERATOR.SIZES,
        "aspect ratios": cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS,
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
        ).stdout.strip(),
        "torch": torch.__version__,
        "seconds": round(time.time() - start),
        "cpu seconds": round(time.process_time() - cpu),
        "curve": run.curve,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".part")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.rename(output)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=int, default=10**6, help="runs to make, at most")
    parser.add_argument("--tuning", action="store_true", help="evaluate on other test images")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        (name, model, seed, label), overrides = args.one[:4], args.one[4:]
        output = args.results / name / f"{label}-{seed}.json"
        logging.getLogger("detectron2").setLevel(logging.INFO)
        data = args.data / name
        measure(model, data, int(seed), args.weights, overrides, args.tuning, output)
        return
    for _ in range(args.limit):
        line = next_run(args)
        if line is None:
            break
        command = [sys.executable, __file__, "--data", args.data, "--weights", args.weights]
        command += ["--results", args.results, *["--tuning"] * args.tuning, "--one", *line]
        print(time.strftime("%H:%M:%S"), *line, flush=True)
        log = args.results / f"{line[0]}-{line[3]}-{line[2]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w") as stream:
            code = subprocess.call(list(map(str, command)), stdout=stream, stderr=subprocess.STDOUT)
        if code:
            output = args.results / line[0] / f"{line[3]}-{line[2]}.failed"
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(log.read_text()[-2000:])


def next_run(args):
    """The first line of the list without a result: data set, model, seed, label, overrides."""
    for line in args.runs.read_text().splitlines():
        parts = shlex.split(line, comments=True)
        if len(parts) < 3:
            continue
        if len(parts) == 3:
            parts.append(parts[1])
        output = args.results / parts[0] / f"{parts[3]}-{parts[2]}.json"
        if not output.exists() and not output.with_suffix(".failed").exists():
            return parts
    return None


if __name__ == "__main__":
    main()
