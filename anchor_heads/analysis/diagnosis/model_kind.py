"""What kind of model a config describes."""

from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY

LEARNED_STRATEGIES = ("FreeAnchor", "GuidedAnchor", "DynamicAnchor")


class ModelKind(NamedTuple):
    """What the findings have to know of a model."""

    name: str
    """Of the part that has the anchors."""
    one_stage: bool
    detects: bool
    """Whether it finds objects of classes. False for proposals alone."""
    strategy: str | None
    """One of :data:`LEARNED_STRATEGIES`; "Dense" for anchors that are matched by IoU; None for a
    model without anchors of its own."""

    @property
    def node(self) -> str:
        """The config node of the part that has the anchors."""
        return "MODEL.RETINANET" if self.one_stage else "MODEL.RPN"


def model_kind(cfg: CfgNode) -> ModelKind:
    """
    Args:
        cfg (CfgNode): the config. A class that is derived from a method's counts as the method.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    architecture = META_ARCH_REGISTRY.get(name)
    if issubclass(architecture, RetinaNet):
        return ModelKind(name, True, True, _strategy(architecture))
    if not issubclass(architecture, (GeneralizedRCNN, ProposalNetwork)):
        return ModelKind(name, False, False, None)
    detects = issubclass(architecture, GeneralizedRCNN)
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if generator == "PrecomputedProposals":
        return ModelKind(generator, False, detects, None)
    strategy = _strategy(PROPOSAL_GENERATOR_REGISTRY.get(generator))
    return ModelKind(generator, False, detects, strategy)


def _strategy(source: type) -> str:
    names = [base.__name__ for base in source.__mro__]
    for strategy in LEARNED_STRATEGIES:
        if any(name.startswith(strategy) for name in names):
            return strategy
    return "Dense"
