"""Weights of other frameworks that reach a model unconverted."""

from collections.abc import Iterable

from torch import nn

from anchor_heads.checkpoint.convert import recognize


def refuse_other_frameworks(
    module: nn.Module,
    state_dict: Iterable[str],
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Make loading published weights an error, for ``register_load_state_dict_pre_hook``.

    Detectron2's own checkpointer does not convert them: it would warn that no name matches, and
    keep random weights.
    """
    # A part of a model is given its own weights only; what the whole has no part for, such as the
    # names of other frameworks, is unexpected by then.
    format = recognize([*state_dict, *unexpected_keys])
    if format is not None:
        error_msgs.append(
            f"These are weights of {format}, which Detectron2's checkpointer does not convert. "
            "Load them with anchor_heads.predictor.load_predictor, train from them with "
            "anchor_heads.engine.Trainer, or convert the file once with anchor-heads "
            "convert-weights."
        )
