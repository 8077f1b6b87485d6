"""The trainer: Detectron2's, with exact resume, checks before the start and more evaluation."""

import logging
import weakref
from argparse import Namespace

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format, verify_results
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from torch import nn

import anchor_heads
from anchor_heads.data.checks import check_class_order, check_datasets
from anchor_heads.data.loader import build_train_loader, run_seed
from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.engine.checkpoint import AtomicCheckpointer, checkpoint_to_resume
from anchor_heads.engine.config_values import check_choice
from anchor_heads.engine.hooks import (
    AverageBatchNorms,
    BestModel,
    EarlyStopping,
    EndOfTraining,
    EvalHook,
    PicturesInTraining,
    WeightAverage,
)
from anchor_heads.engine.lazy import is_lazy, train_or_evaluate_lazy
from anchor_heads.engine.optimizer import build_optimizer
from anchor_heads.engine.rescue import Rescue
from anchor_heads.engine.results import (
    in_folders_of,
    is_of_average,
    with_suffix,
    write_results,
)
from anchor_heads.engine.resume import (
    apply_settings,
    check_resumed_config,
    optimizer_settings,
    resume_loader,
    whole_state,
)
from anchor_heads.engine.run_record import write_model
from anchor_heads.engine.schedule import scale_to_epochs
from anchor_heads.engine.setup import setup
from anchor_heads.engine.trackers import TrackerWriter, build_trackers
from anchor_heads.engine.train_step import TrainStep
from anchor_heads.errors import said_by_library
from anchor_heads.evaluation import NMSRecallEvaluator, build_evaluator, metric_names
from anchor_heads.modeling.distributed import for_all_processes, unwrap
from anchor_heads.modeling.one_stage import candidates_before_nms
from anchor_heads.modeling.test_time_augmentation import build_tta, build_tta_test_loader

logger = logging.getLogger(__name__)

# Detectron2 builds WarmupStepWithFixedGammaLR, too, which fails with an IndexError at the end.
LR_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR")
# Sampler -> the key of DATALOADER or DATASETS that it reads and Detectron2's own config lacks.
TRAIN_SAMPLERS = {
    "TrainingSampler": None,
    "RepeatFactorTrainingSampler": None,
    "RandomSubsetTrainingSampler": "RANDOM_SUBSET_RATIO",
    "WeightedTrainingSampler": "TRAIN_REPEAT_FACTOR",
    "WeightedCategoryTrainingSampler": "TRAIN_REPEAT_FACTOR",
}


class Trainer(DefaultTrainer):
    """Trains and evaluates the model of a config, in this process's part of the run.

    Beyond :class:`DefaultTrainer`, it also trains on the CPU with several processes or in mixed
    precision, resumes with exactly the images, random numbers and state that the stopped run would
    have gone on with, stops before a non-finite loss spoils the weights, and saves a checkpoint
    however it ends. Every ``build_*`` method can be overridden as in Detectron2.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg (CfgNode): the full config.

        Raises:
            ValueError, FileNotFoundError: if the data sets cannot be used or do not fit the model,
                or the config enables an evaluation that the model or the data do not support.
        """
        # DefaultTrainer's own __init__ has the same parts in the same order, but cannot wrap a
        # model for several processes on the CPU, and builds its step and checkpointer itself.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):  # without setup()
            setup_logger()
        check_datasets(cfg)
        self.check_evaluators(cfg)
        self.check_best_metric(cfg)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg = scale_to_epochs(cfg)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER

        model = self.build_model(cfg)
        self.check_extra_evaluations(cfg, model)
        write_model(model, cfg.OUTPUT_DIR)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self._trainer = self.build_step(cfg, for_all_processes(model), optimizer)
        self.checkpointer = self.build_checkpointer(cfg)
        self.trackers: list[TrackerWriter] = []  # of the main process, from build_writers
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg):
        """Same as Detectron2's, which also logs hundreds of lines; they are in model.txt.

        Raises:
            ValueError: if IN_FEATURES names a feature that the backbone does not have, or values
                do not fit each other.
        """
        try:
            return build_model(cfg)
        except KeyError as error:
            for name in ("FPN", "RETINANET", "RPN", "ROI_HEADS", "SEM_SEG_HEAD"):
                if error.args[0] in cfg.MODEL[name].IN_FEATURES:
                    raise ValueError(
                        f"MODEL.{name}.IN_FEATURES: the backbone has no feature {error}."
                    ) from error
            raise
        except Exception as error:
            if reason := said_by_library(error):
                raise ValueError(f"No model can be made of this config: {reason}") from error
            raise

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        """Same as Detectron2's, which cannot have a step at the end of the training."""
        check_choice("SOLVER.LR_SCHEDULER_NAME", cfg.SOLVER.LR_SCHEDULER_NAME, LR_SCHEDULERS)
        steps = tuple(x for x in cfg.SOLVER.STEPS if x < cfg.SOLVER.MAX_ITER)
        if steps != tuple(cfg.SOLVER.STEPS):
            logger.warning(
                f"Of SOLVER.STEPS {cfg.SOLVER.STEPS}, those from SOLVER.MAX_ITER "
                f"{cfg.SOLVER.MAX_ITER} on have no effect."
            )
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.STEPS = steps
        return super().build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_optimizer(cls, cfg, model):
        """See :func:`anchor_heads.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        """See :func:`anchor_heads.data.loader.build_train_loader`, which takes a mapper of yours.

        A loader of another kind starts anew when a run is resumed.
        """
        keys = {None, *cfg.DATALOADER, *cfg.DATASETS}
        samplers = [name for name, key in TRAIN_SAMPLERS.items() if key in keys]
        check_choice("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN, samplers)
        return build_train_loader(cfg)

    @classmethod
    def build_step(cls, cfg, model, optimizer) -> TrainStep:
        """The object whose ``run_step`` takes a step."""
        return TrainStep(
            model,
            optimizer,
            seed=run_seed(cfg),
            mixed_precision=cfg.SOLVER.AMP.ENABLED,
            num_parts=cfg.SOLVER.GRADIENT_ACCUMULATION,
        )

    def build_checkpointer(self, cfg) -> AtomicCheckpointer:
        """What saves and loads the model with the state of the training.

        Checkpoints also have the config, the classes and this package's version.
        """
        return AtomicCheckpointer(
            self.model, cfg.OUTPUT_DIR, extra=_extra(cfg), trainer=weakref.proxy(self)
        )

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        """Detectron2's test loader, with :class:`anchor_heads.data.mapper.DatasetMapper`."""
        mapper = DatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """See :func:`anchor_heads.evaluation.build_evaluator`."""
        return build_evaluator(cfg, dataset_name)

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's writers, and those of EXPERIMENT_TRACKERS."""
        self.trackers = build_trackers(self.cfg)
        return [*super().build_writers(), *self.trackers]

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks, and those of this package at their places among them."""
        cfg, model, is_main = self.cfg, unwrap(self.model), comm.is_main_process()
        timer, scheduler, precise_norms, *rest = super().build_hooks()
        evaluation = next(i for i, hook in enumerate(rest) if isinstance(hook, hooks.EvalHook))
        saving, writing, period = rest[:evaluation], rest[evaluation + 1 :], cfg.TEST.EVAL_PERIOD

        average = WeightAverage(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
        models = [model, average.average.module] if average else [model]
        self._batch_norms = AverageBatchNorms(models, [cfg.SOLVER.CHECKPOINT_PERIOD, period])
        self._rescue = Rescue(
            weakref.proxy(self), self._trainer, self.checkpointer, self._batch_norms
        )
        before_saving = [average, self._rescue.end_of_step, precise_norms, self._batch_norms]
        evaluating = [EvalHook(period, self._test_model)]
        if average:
            saving.append(self._saver_of_average(average))
            evaluating.append(EvalHook(period, lambda: self._test_average(average)))
        evaluating.append(EvalHook(0, lambda: self.run_extra_evaluations(self.cfg, self.model)))
        best = None
        if cfg.TEST.BEST_METRIC and is_main:
            kept = models[-1] if is_of_average(cfg) else model
            checkpointer = AtomicCheckpointer(kept, cfg.OUTPUT_DIR, tag=False, extra=_extra(cfg))
            best = BestModel(period, checkpointer, cfg.TEST.BEST_METRIC, cfg.DATASETS.TEST)
            evaluating.append(best)
        if patience := cfg.SOLVER.EARLY_STOP_PATIENCE:
            writing.append(EarlyStopping(period, cfg.TEST.BEST_METRIC, patience, best))
        if cfg.VIS_PERIOD and is_main and isinstance(model, DenseDetector):
            metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
            evaluating.append(PicturesInTraining(model, cfg.VIS_PERIOD, cfg.INPUT.FORMAT, metadata))
        # The writer comes after all that put something into the storage.
        return [timer, scheduler, *before_saving, *saving, *evaluating, *writing]

    @property
    def current_batch(self) -> list[dict]:
        """This process's images of the current iteration, as the mapper made them."""
        return self._trainer.batch

    @property
    def run_id(self) -> str:
        """See :class:`TrainStep`."""
        return self._trainer.run_id

    def resume_or_load(self, resume=True):
        """Same as Detectron2's, with settings of the config that take effect in a resumed run.

        Learning rate, weight decay, momentum and the length of the run are those of the config;
        what differs from the stopped run is said.

        Raises:
            ValueError: if ``last_checkpoint`` is missing or names no whole checkpoint, or the
                checkpoint is of another model or optimizer.
        """
        path = checkpoint_to_resume(self.cfg.OUTPUT_DIR) if resume else ""
        if not path:
            self.checkpointer.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
            return
        check_resumed_config(path, self.cfg, unwrap(self.model), self.optimizer)
        settings = optimizer_settings(self.optimizer, self.scheduler)
        with whole_state(path):
            self.checkpointer.load(path, complete=True)
        apply_settings(settings, self.optimizer, self.scheduler)
        self.start_iter = self.iter + 1

    def train(self):
        """Train from ``start_iter`` on; see :meth:`DefaultTrainer.train`.

        However the training ends, a checkpoint of its last whole step is left behind.
        """
        # Not earlier: resuming decides where the images start, and by which seed.
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED = self._trainer.seed
        self.data_loader = loader = self.build_train_loader(cfg)
        resume_loader(loader, self.start_iter)
        failed = True
        try:
            with self._rescue.after_any_end():
                TrainerBase.train(self, self.start_iter, self.max_iter)
            failed = False
        except EndOfTraining as reason:
            logger.info(f"The training ends after iteration {self.iter - 1}: {reason}")
            failed = False
        finally:
            for tracker in self.trackers:
                tracker.finish(failed)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results

    def run_step(self):
        try:
            super().run_step()
        except BaseException:
            self.iter -= 1  # the last iteration that counts: a failed run is not evaluated
            raise

    def after_step(self):
        try:
            super().after_step()
        except EndOfTraining:
            self._batch_norms.average()
            self.checkpointer.save("model_final", iteration=self.iter)
            self.iter += 1  # as after the last iteration, so that what follows a training is run
            self.max_iter = self.iter
            raise

    def _saver_of_average(self, average: WeightAverage) -> HookBase:
        checkpointer = AtomicCheckpointer(
            average.average.module, self.cfg.OUTPUT_DIR, tag=False, extra=_extra(self.cfg)
        )

        def save(trainer):
            if trainer.iter + 1 >= trainer.max_iter:  # not of a training that was stopped
                checkpointer.save("model_final_ema", iteration=trainer.max_iter - 1)

        return hooks.CallbackHook(after_train=save)

    def _test_model(self) -> dict:
        self._last_eval_results = self.test(self.cfg, self.model)  # where DefaultTrainer has them
        return self._last_eval_results

    def _test_average(self, average: WeightAverage) -> dict:
        results = self.test(in_folders_of(self.cfg, "EMA"), average.average.module)
        if len(self.cfg.DATASETS.TEST) == 1:
            return with_suffix(results, "_EMA")
        return {name: with_suffix(found, "_EMA") for name, found in results.items()}

    @classmethod
    def run_extra_evaluations(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """The evaluations that the config enables in addition to the usual one.

        With TEST.AUG.ENABLED, test-time augmentation; its tasks have the suffix "_TTA". With
        TEST.NMS_RECALL, the recall of NMS.

        Returns:
            dict: as :meth:`test` returns it.
        """
        model = unwrap(model)
        results = {name: {} for name in cfg.DATASETS.TEST}
        for name, found in results.items():
            if cfg.TEST.AUG.ENABLED:
                evaluator = cls.build_evaluator(in_folders_of(cfg, "TTA"), name)
                loader = build_tta_test_loader(cfg, name)
                augmented = inference_on_dataset(build_tta(cfg, model), loader, evaluator)
                found |= with_suffix(augmented, "_TTA")
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
    def check_best_metric(cls, cfg: CfgNode) -> None:
        """Raise ValueError if no evaluation gives TEST.BEST_METRIC.

        The evaluators and hooks of a subclass may give others, so it is not checked there.
        """
        if not cfg.TEST.BEST_METRIC or cls is not Trainer:
            return
        names = metric_names(cfg)
        if not names:
            raise ValueError(
                "TEST.BEST_METRIC needs a test set with annotated objects, and DATASETS.TEST is "
                f"{cfg.DATASETS.TEST}."
            )
        check_choice("TEST.BEST_METRIC", cfg.TEST.BEST_METRIC, names)

    @classmethod
    def check_extra_evaluations(cls, cfg: CfgNode, model: nn.Module) -> None:
        """Raise at once what :meth:`run_extra_evaluations` would raise after the training.

        Raises:
            TypeError, ValueError: if the model does not support an evaluation of the config.
        """
        if cfg.TEST.AUG.ENABLED:
            build_tta(cfg, model)
        if cfg.TEST.NMS_RECALL:
            with candidates_before_nms(model):
                pass

    @classmethod
    def evaluate(cls, cfg: CfgNode, resume: bool = False, random_weights: bool = False) -> dict:
        """Evaluate without training: build the model, load its weights, run all evaluations.

        The results are also written to OUTPUT_DIR: metrics.json and TensorBoard.

        Args:
            cfg (CfgNode): the full config.
            resume (bool): whether the last checkpoint in OUTPUT_DIR goes before MODEL.WEIGHTS.
            random_weights (bool): whether weights may stay as initialised.

        Returns:
            dict: task -> metric -> number; with several test sets, one such dict for each.

        Raises:
            ValueError: if there are no weights for all of the model, and ``random_weights`` is
                False, or the checkpoint is of a training with the same classes in another order.
        """
        check_datasets(cfg, train=False)
        cls.check_evaluators(cfg)
        model = cls.build_model(cfg)
        cls.check_extra_evaluations(cfg, model)
        checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR)
        path = checkpoint_to_resume(cfg.OUTPUT_DIR) if resume else ""
        path = path or cfg.MODEL.WEIGHTS
        checkpoint = checkpointer.load_to_evaluate(path, random_weights)
        check_class_order(path, checkpoint.get("class_names"), cfg, cfg.DATASETS.TEST)
        results = cls.test(cfg, model)
        for name, more in cls.run_extra_evaluations(cfg, model).items():
            results[name] = {**results.get(name, {}), **more}
        if comm.is_main_process():
            write_results(results, cfg.OUTPUT_DIR, checkpoint.get("iteration", 0))
            verify_results(cfg, results)
        return results


def train_or_evaluate(args: Namespace) -> dict | None:
    """What train_net.py does in each process: train, or with ``--eval-only`` evaluate.

    Args:
        args (Namespace): of :func:`argument_parser` or Detectron2's ``default_argument_parser``.
    """
    if is_lazy(args.config_file):
        return train_or_evaluate_lazy(args)
    cfg = setup(args)
    if args.eval_only:
        random_weights = vars(args).get("random_weights", False)
        return Trainer.evaluate(cfg, resume=args.resume, random_weights=random_weights)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def _extra(cfg: CfgNode) -> dict:
    """What every checkpoint contains besides the weights."""
    return {
        "config": cfg.dump(),
        "class_names": list(cfg.MODEL.CLASS_NAMES),
        "category_ids": list(cfg.MODEL.CATEGORY_IDS),
        "anchor_heads": anchor_heads.__version__,
    }
