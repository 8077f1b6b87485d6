"""Tiny models to measure."""

from tiny_run import write_config

from anchor_heads import get_cfg

# What stands behind an ordinary and a two-stage model's name in a config.
PROPOSAL_GENERATORS = {
    "RPN": ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN"],
    "GuidedAnchorRPN": ["MODEL.PROPOSAL_GENERATOR.NAME", "GuidedAnchorRPN"],
    "DynamicAnchorRPN": ["MODEL.PROPOSAL_GENERATOR.NAME", "DynamicAnchorRPN"],
    "FreeAnchorRPN": ["MODEL.PROPOSAL_GENERATOR.NAME", "FreeAnchorRPN"]
    + ["MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)],
}


def tiny_config(folder, meta_architecture, proposal_generator=None):
    """The config of a tiny model, which is also written to ``folder/config.yaml``."""
    folder.mkdir()
    cfg = get_cfg()
    overrides = PROPOSAL_GENERATORS.get(proposal_generator, ())
    cfg.merge_from_file(write_config(folder, meta_architecture, overrides))
    return cfg
