import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis
from tiny_run import write_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_heads import get_cfg, layers, model_zoo
from anchor_heads.analysis.model_analysis import Counts, analyze_model, table
from anchor_heads.cli import main

SIZE = (64, 96)
LOCATIONS = 8 * 12 + 4 * 6 + 2 * 3  # of P3 to P5


def tiny_config(folder, meta_architecture="GeneralizedRCNN", *overrides):
    cfg = get_cfg()
    cfg.merge_from_file(write_config(folder, meta_architecture, overrides))
    return cfg


def proposal_config(folder, name):
    return tiny_config(folder, "ProposalNetwork", "MODEL.PROPOSAL_GENERATOR.NAME", name)


def convolutions(module):
    return [x for x in module.parameters() if x.dim() == 4]


def check_counts(cfg, head):
    """Of the whole model, and that each convolution of the head counts once at each location."""
    counts = analyze_model(cfg, SIZE)
    model = build_model(cfg)
    module = getattr(model, head)
    assert list(counts) == ["backbone", "neck", head, "total"]
    assert counts[head] == Counts(
        parameters=sum(x.numel() for x in module.parameters()),
        multiply_adds=LOCATIONS * sum(x.numel() for x in convolutions(module)),
        activations=LOCATIONS * sum(len(x) for x in convolutions(module)),
    )
    parts = [counts[x] for x in ("backbone", "neck", head)]
    assert counts["total"] == Counts(*map(sum, zip(*parts, strict=True)))
    assert counts["total"].parameters == sum(x.numel() for x in model.parameters())


@pytest.mark.parametrize("method", ["FreeAnchor", "GuidedAnchor", "DynamicAnchor"])
def test_one_stage_detectors(tmp_path, method):
    check_counts(tiny_config(tmp_path, f"{method}RetinaNet"), "head")


@pytest.mark.parametrize("method", ["FreeAnchor", "GuidedAnchor", "DynamicAnchor"])
def test_proposal_generators(tmp_path, method):
    check_counts(proposal_config(tmp_path, f"{method}RPN"), "proposal_generator")


def by_torchvision(x, offset, weight, bias=None, mask=None):
    padding = [size // 2 for size in weight.shape[2:]]
    return torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=padding, mask=mask)


@pytest.mark.parametrize("method", ["GuidedAnchor", "DynamicAnchor"])
def test_deformable_convolutions_as_computed_on_a_gpu(tmp_path, monkeypatch, method):
    monkeypatch.setattr(layers.deform_conv, "deform_conv2d", by_torchvision)
    check_counts(tiny_config(tmp_path, f"{method}RetinaNet"), "head")


def test_a_retinanet_counts_as_in_detectron2(tmp_path):
    cfg = tiny_config(tmp_path, "RetinaNet", "MODEL.RETINANET.NORM", "GN")
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    counts = analyze_model(cfg, SIZE)
    flops = FlopCountAnalysis(build_model(cfg).eval(), [{"image": torch.zeros(3, *SIZE)}])
    assert counts["total"].multiply_adds == flops.total()
    assert counts["backbone"].multiply_adds == flops.total("model.backbone.bottom_up")
    both = counts["backbone"].multiply_adds + counts["neck"].multiply_adds
    assert both == flops.total("model.backbone")
    assert counts == analyze_model(cfg, (50, 90))  # which is padded to SIZE


def test_deformable_convolutions_of_detectron2_count(tmp_path):
    cfg = tiny_config(tmp_path, "RetinaNet")
    plain = analyze_model(cfg, SIZE)["backbone"]
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, False, False, True]
    deformable = analyze_model(cfg, SIZE)["backbone"]
    blocks = build_model(cfg).backbone.bottom_up.res5
    offsets = [x for block in blocks for x in convolutions(block.conv2_offset)]
    assert len(offsets) == 3
    locations = 2 * 3
    added = locations * sum(x.numel() for x in offsets)
    assert deformable.multiply_adds - plain.multiply_adds == added
    assert deformable.activations - plain.activations == locations * 3 * 18


@pytest.mark.parametrize(
    "generator, key",
    [
        ("GuidedAnchorRPN", "MODEL.RPN.POST_NMS_TOPK_TEST"),
        ("PrecomputedProposals", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"),
    ],
)
def test_box_heads_get_all_proposals(tmp_path, generator, key):
    overrides = ("MODEL.PROPOSAL_GENERATOR.NAME", generator, key, 7)
    cfg = tiny_config(tmp_path, "GeneralizedRCNN", *overrides)
    counts = analyze_model(cfg, SIZE)
    weights = [x for x in build_model(cfg).roi_heads.parameters() if x.dim() == 2]
    assert counts["roi_heads"].multiply_adds == 7 * sum(x.numel() for x in weights)
    assert counts["roi_heads"].activations == 7 * sum(len(x) for x in weights)
    assert ("proposal_generator" in counts) == (generator == "GuidedAnchorRPN")


def test_mask_heads_get_all_detections(tmp_path):
    overrides = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
    cfg = tiny_config(tmp_path, "GeneralizedRCNN", *overrides)
    cfg.MODEL.ROI_MASK_HEAD.merge_from_list(["NUM_CONV", 1, "POOLER_RESOLUTION", 2])
    counts = []
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 5
    for cfg.TEST.DETECTIONS_PER_IMAGE in (3, 5, -1):
        counts.append(analyze_model(cfg, SIZE)["roi_heads"].multiply_adds)
    mask_head = build_model(cfg).roi_heads.mask_head
    # The first two work on 2x2 cells (the deconvolution's input), the predictor on 4x4.
    cells = {"mask_fcn1": 4, "deconv": 4, "predictor": 16}
    each = sum(cells[x] * getattr(mask_head, x).weight.numel() for x in cells)
    assert counts[1] - counts[0] == 2 * each
    assert counts[2] == counts[1]  # one for each proposal


def test_the_config_stays_as_it_is(tmp_path):
    cfg = tiny_config(tmp_path, "GuidedAnchorRetinaNet")
    before = cfg.clone()
    cfg.freeze()
    analyze_model(cfg, SIZE)
    assert cfg == before


def test_an_image_without_pixels(tmp_path):
    with pytest.raises(ValueError, match=r"\(64, 0\): height and width must be at least 1"):
        analyze_model(tiny_config(tmp_path), (64, 0))


def test_a_part_that_is_not_run(tmp_path):
    cfg = tiny_config(tmp_path, "PanopticFPN", "MODEL.SEM_SEG_HEAD.NORM", "")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p3", "p4", "p5"]
    with pytest.raises(NotImplementedError, match="PanopticFPN has .* counted: sem_seg_head"):
        analyze_model(cfg, SIZE)


class PublishedCount(TorchDispatchMode):
    """Counts as the tool that the authors of DA-RetinaNet used: mmcv 1.2's counter, which knows
    convolutions (with a multiply-add for the bias), batch norms, ReLUs and poolings that are
    modules, and neither group norms nor deformable convolutions."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            _, weight, bias = args[:3]
            self.flops += out[0, 0].numel() * (weight.numel() + (0 if bias is None else len(bias)))
        elif "batch_norm" in name:
            self.flops += 2 * args[0].numel()
        elif name in ("relu", "relu_", "max_pool2d_with_indices"):
            self.flops += args[0].numel()
        return out


def uncounted(x, offset, weight, bias=None, mask=None):
    """A deformable convolution as that counter sees it."""
    return x.new_empty(len(x), len(weight), *x.shape[2:])


@pytest.mark.parametrize("depth, gigaflops", [(50, 141.79), (101, 217.86)])
def test_published_flops_of_da_retinanet(depth, gigaflops, monkeypatch):
    monkeypatch.setattr(layers.deform_conv, "deform_conv2d", uncounted)
    name = f"dynamic_anchor/da_retinanet_R_{depth}_FPN_1x"
    model = model_zoo.get(name, ["MODEL.DEVICE", "cpu"]).eval()
    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), shapes_alone, PublishedCount() as count:
        features = model.backbone(torch.empty(1, 3, 1280, 800))
        model.head([features[x] for x in model.head_in_features])
    relu_before_p7 = features["p6"].numel()  # not a module
    assert round((count.flops - relu_before_p7) / 1e9, 2) == gigaflops


def test_table():
    counts = {"head": Counts(1_234_000, 56_789_000_000, 100_000), "total": Counts(0, 0, 0)}
    assert table(counts).splitlines() == [
        "| part   |   parameters, M |   multiply-adds, G |   activations, M |",
        "|:-------|----------------:|-------------------:|-----------------:|",
        "| head   |            1.23 |              56.79 |             0.10 |",
        "| total  |            0.00 |               0.00 |             0.00 |",
    ]


def test_the_command_prints_the_table(tmp_path, capsys):
    config = write_config(tmp_path, "FreeAnchorRetinaNet")
    options = [config, "--image-size", "64", "96", "MODEL.FPN.OUT_CHANNELS", "32"]
    main.run("analyze", options)
    cfg = get_cfg()
    cfg.merge_from_file(config)
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    expected = f"{config}: one image of 64x96.\n\n{table(analyze_model(cfg, SIZE))}\n"
    assert capsys.readouterr().out == expected
