"""The trainer: Detectron2's, with exact resume, checks before the start and more evaluation."""

import logging
import os
import weakref

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format, verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from torch import nn

from anchor_heads.data.checks import check_datasets
from anchor_heads.data.loader import build_train_loader, run_seed
from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.engine.hooks import PicturesInTraining
from anchor_heads.engine.optimizer import build_optimizer
from anchor_heads.engine.train_step import NonFiniteError, TrainStep
from anchor_heads.evaluation import NMSRecallEvaluator, build_evaluator
from anchor_heads.modeling.distributed import unwrap
from anchor_heads.modeling.one_stage import candidates_before_nms
from anchor_heads.modeling.test_time_augmentation import build_tta, build_tta_test_loader


class Trainer(DefaultTrainer):
    """Trains and evaluates the model of a config, in this process's part of the run.

    Beyond :class:`DefaultTrainer`, it also trains on the CPU with several processes or in mixed
    precision, resumes with exactly the images, random numbers and state that the stopped run would
    have gone on with, and stops before a non-finite loss spoils the weights.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg (CfgNode): the full config.

        Raises:
            ValueError, FileNotFoundError: if the data sets cannot be used or do not fit the model.
        """
        # DefaultTrainer's own __init__ would build parts that are replaced here.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):  # without setup()
            setup_logger()
        check_datasets(cfg)
        self.check_evaluators(cfg)
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER

        model = self.build_model(cfg)
        self.check_test_more(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self._trainer = TrainStep(
            _for_all_processes(model),
            optimizer,
            seed=run_seed(cfg),
            mixed_precision=cfg.SOLVER.AMP.ENABLED,
        )
        self.checkpointer = AtomicCheckpointer(
            self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_optimizer(cls, cfg, model):
        """See :func:`anchor_heads.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg, start_iter=0, seed=None):
        """See :func:`anchor_heads.data.loader.build_train_loader`."""
        return build_train_loader(cfg, start_iter, seed)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        """Detectron2's test loader, with :class:`anchor_heads.data.mapper.DatasetMapper`."""
        mapper = DatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """See :func:`anchor_heads.evaluation.build_evaluator`."""
        return build_evaluator(cfg, dataset_name)

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks; beside its evaluation, the other evaluations and pictures."""
        ret = super().build_hooks()
        ours = [hooks.EvalHook(0, lambda: self.run_extra_evaluations(self.cfg, self.model))]
        model = unwrap(self.model)
        if self.cfg.VIS_PERIOD and comm.is_main_process() and isinstance(model, DenseDetector):
            metadata = MetadataCatalog.get(self.cfg.DATASETS.TRAIN[0])
            ours.append(
                PicturesInTraining(model, self.cfg.VIS_PERIOD, self.cfg.INPUT.FORMAT, metadata)
            )
        # Before the writer, which comes last and writes what they put into the storage.
        evaluation = next(i for i, hook in enumerate(ret) if isinstance(hook, hooks.EvalHook))
        return ret[: evaluation + 1] + ours + ret[evaluation + 1 :]

    @property
    def current_batch(self) -> list[dict]:
        """This process's images of the current iteration, as the mapper made them."""
        return self._trainer.batch

    def train(self):
        """Train from ``start_iter`` on; see :meth:`DefaultTrainer.train`."""
        # Not earlier: resuming decides where the images start, and by which seed.
        self.data_loader = self.build_train_loader(self.cfg, self.start_iter, self._trainer.seed)
        return super().train()

    def run_step(self):
        """Take one step; if it fails, save the weights before it, to be resumed from."""
        try:
            super().run_step()
        except NonFiniteError as error:
            self.iter -= 1  # the last iteration that counts
            self.checkpointer.save("model_last_good", iteration=self.iter)
            comm.synchronize()  # the first process to end takes the others with it
            file = self.checkpointer.get_checkpoint_file()
            raise NonFiniteError(
                f"{error} The weights before it are in {file}. --resume goes on from there, at the "
                "learning rate that the run began with; to start anew with these weights, and "
                f"another learning rate, write MODEL.WEIGHTS {file}."
            ) from None

    @classmethod
    def run_extra_evaluations(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """The evaluations that the config asks for beside the usual one.

        With TEST.AUG.ENABLED, test-time augmentation; its tasks have the suffix "_TTA". With
        TEST.NMS_RECALL, the recall of NMS.

        Returns:
            dict: as :meth:`test` returns it.
        """
        model = unwrap(model)
        results = {name: {} for name in cfg.DATASETS.TEST}
        for name, found in results.items():
            if cfg.TEST.AUG.ENABLED:
                evaluator = cls.build_evaluator(_in_folders_of_tta(cfg), name)
                loader = build_tta_test_loader(cfg, name)
                augmented = inference_on_dataset(build_tta(cfg, model), loader, evaluator)
                found |= {f"{task}_TTA": metrics for task, metrics in augmented.items()}
            if cfg.TEST.NMS_RECALL:
                loader = cls.build_test_loader(cfg, name)
                with candidates_before_nms(model):
                    found |= inference_on_dataset(model, loader, NMSRecallEvaluator(name))
            print_csv_format(found)
        return results if len(results) != 1 else next(iter(results.values()))

    @classmethod
    def check_evaluators(cls, cfg: CfgNode) -> None:
        """Raise at once what building the evaluators would raise after the training."""
        for name in cfg.DATASETS.TEST:
            cls.build_evaluator(cfg, name)

    @classmethod
    def check_test_more(cls, cfg: CfgNode, model: nn.Module) -> None:
        """Raise at once what :meth:`run_extra_evaluations` would raise after the training.

        Raises:
            TypeError, ValueError: if the config asks for an evaluation that the model cannot have.
        """
        if cfg.TEST.AUG.ENABLED:
            build_tta(cfg, model)
        if cfg.TEST.NMS_RECALL:
            with candidates_before_nms(model):
                pass

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False) -> dict:
        """Evaluate without training: build the model, load its weights, run all evaluations.

        The results are also written to OUTPUT_DIR: metrics.json and TensorBoard.

        Args:
            cfg (CfgNode): the full config.
            resume (bool): whether the last checkpoint in OUTPUT_DIR goes before MODEL.WEIGHTS.

        Returns:
            dict: task -> metric -> number; with several test sets, one such dict for each.
        """
        check_datasets(cfg, train=False)
        cls.check_evaluators(cfg)
        model = cls.build_model(cfg)
        cls.check_test_more(cfg, model)
        checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR)
        checkpoint = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        results = cls.test(cfg, model)
        for name, more in cls.run_extra_evaluations(cfg, model).items():
            results[name] = {**results.get(name, {}), **more}
        if comm.is_main_process():
            _write_results(results, cfg.OUTPUT_DIR, iteration=checkpoint.get("iteration", 0))
            verify_results(cfg, results)
        return results


def _for_all_processes(model: nn.Module) -> nn.Module:
    """The model, wrapped for distributed training where there are several processes."""
    is_cpu = next(model.parameters()).device.type == "cpu"
    device_ids = {"device_ids": None} if is_cpu else {}
    return create_ddp_model(model, broadcast_buffers=False, **device_ids)


def _in_folders_of_tta(cfg: CfgNode) -> CfgNode:
    """The config with folders of their own for the results of test-time augmentation."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "TTA")
    if cfg.TEST.SHOW_DIR:
        cfg.TEST.SHOW_DIR = os.path.join(cfg.TEST.SHOW_DIR, "TTA")
    return cfg


def _write_results(results: dict, output_dir: str, iteration: int) -> None:
    writers = [JSONWriter(os.path.join(output_dir, "metrics.json")), TensorboardXWriter(output_dir)]
    with EventStorage(max(iteration, 0)) as storage:
        storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()
