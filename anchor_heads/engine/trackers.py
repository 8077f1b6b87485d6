"""Services that get the metrics of a run, as event writers of Detectron2."""

import importlib
import os
from collections.abc import Callable
from types import ModuleType

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage


class TrackerWriter(EventWriter):
    """Gives what is new in the storage to a service.

    ``finish`` ends its run; ``close``, which Detectron2's hook calls, does nothing, for it is not
    called where another hook fails.
    """

    def __init__(
        self, log: Callable[[dict[str, float], int], None], finish: Callable[[bool], None]
    ):
        """
        Args:
            log (callable): takes the values of metrics and their iteration.
            finish (callable): ends the run; takes whether an error or a signal ended it.
        """
        self.log = log
        self.finish = finish
        self.last_iteration = -1

    def write(self):
        new: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(20).items():
            if iteration > self.last_iteration:
                new.setdefault(iteration, {})[name] = value
        for iteration in sorted(new):
            self.log(new[iteration], iteration)
            self.last_iteration = iteration


def build_trackers(cfg: CfgNode) -> list[TrackerWriter]:
    """The writers of EXPERIMENT_TRACKERS, on the main process.

    A run is called as the last part of OUTPUT_DIR, in the project "anchor_heads" unless the
    service's environment variables say otherwise.

    Raises:
        ValueError, ModuleNotFoundError: as :func:`check_trackers`.
    """
    folder = os.path.abspath(cfg.OUTPUT_DIR)
    modules = check_trackers(cfg)
    return [_STARTERS[x](modules[x], os.path.basename(folder), folder, cfg) for x in modules]


def check_trackers(cfg: CfgNode) -> dict[str, ModuleType]:
    """The packages of EXPERIMENT_TRACKERS by name.

    Raises:
        ValueError: if there is no such service.
        ModuleNotFoundError: if its package is not installed.
    """
    modules = {}
    for name in cfg.EXPERIMENT_TRACKERS:
        if name not in _STARTERS:
            known = ", ".join(_STARTERS)
            raise ValueError(f"EXPERIMENT_TRACKERS: there is no {name!r}, only {known}.")
        try:
            modules[name] = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"EXPERIMENT_TRACKERS names {name}, which is not installed: "
                f"pip install 'anchor-heads[{name}]'"
            ) from error
    return modules


def _wandb(wandb, run: str, folder: str, cfg: CfgNode) -> TrackerWriter:
    project = os.getenv("WANDB_PROJECT", "anchor_heads")
    started = wandb.init(project=project, name=run, dir=folder, config=_settings(cfg))
    return TrackerWriter(
        lambda metrics, i: started.log(metrics, step=i),
        lambda failed: started.finish(exit_code=int(failed)),
    )


def _mlflow(mlflow, run: str, folder: str, cfg: CfgNode) -> TrackerWriter:
    experiment = os.getenv("MLFLOW_EXPERIMENT_NAME", "anchor_heads")
    if not os.getenv("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        if mlflow.get_experiment_by_name(experiment) is None:  # whose files would be in ./mlruns
            mlflow.create_experiment(experiment, artifact_location=f"{folder}/mlartifacts")
    mlflow.set_experiment(experiment)
    mlflow.start_run(run_name=run)
    mlflow.log_dict(_settings(cfg), "config.yaml")
    # Its names may not have "@", as in "AR@100".
    return TrackerWriter(
        lambda metrics, i: mlflow.log_metrics(
            {name.replace("@", "_at_"): value for name, value in metrics.items()}, step=i
        ),
        lambda failed: mlflow.end_run("FAILED" if failed else "FINISHED"),
    )


def _trackio(trackio, run: str, folder: str, cfg: CfgNode) -> TrackerWriter:
    project = os.getenv("TRACKIO_PROJECT", "anchor_heads")
    started = trackio.init(project=project, name=run, config=_settings(cfg))
    # Trackio has no status for runs that failed.
    return TrackerWriter(
        lambda metrics, i: started.log(metrics, step=i), lambda failed: trackio.finish()
    )


_STARTERS = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}


def _settings(node: CfgNode) -> dict:
    return {k: _settings(v) if isinstance(v, CfgNode) else v for k, v in node.items()}
