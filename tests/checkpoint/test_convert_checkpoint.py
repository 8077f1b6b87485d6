"""anchor-heads convert-weights, from its command line to the file that it writes."""

import pytest
import torch
from detectron2.modeling import build_model
from published_files import CONFIGS, contents, small_cfg, small_source, write_published
from source_models import resnet, weightless

from anchor_heads.cli import main
from anchor_heads.engine.checkpoint import AtomicCheckpointer


def convert(*arguments):
    main.run("convert-weights", [*map(str, arguments)])


def refusal(folder, *arguments):
    """What the command says when it refuses; it must leave no other file behind."""

    def files():
        return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}

    before = files()
    with pytest.raises((OSError, ValueError)) as refused:
        convert(*arguments)
    assert files() == before
    return str(refused.value)


def write_small_config(folder, method, *overrides):
    path = folder / f"{method}.yaml"
    path.write_text(small_cfg(method, "MODEL.WEIGHTS", "", *overrides).dump())
    return path


@pytest.fixture(scope="module")
def small_weights():
    torch.manual_seed(0)
    return {method: small_source(method).state_dict() for method in ("ga_retinanet", "free_anchor")}


@pytest.fixture
def files(tmp_path, small_weights):
    """A published file, its config, and the name of the file to be written."""
    source = write_published(tmp_path / "ga.pth", "ga_retinanet", small_weights["ga_retinanet"])
    return source, write_small_config(tmp_path, "ga_retinanet"), tmp_path / "converted.pth"


def test_what_is_written_is_what_the_published_file_loads_as(tmp_path, small_weights, capsys):
    source = write_published(tmp_path / "fa.pth", "free_anchor", small_weights["free_anchor"])
    config = write_small_config(tmp_path, "free_anchor")
    target = tmp_path / "converted.pth"
    convert(source, target, "--config-file", config)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{source}: FreeAnchor's RetinaNet of maskrcnn-benchmark."
    assert lines[1] == f"301 tensors fill all of the model of {config}."
    assert "0 counters of batch norms, 5 other tensors (rpn.anchor_generator.cell_" in lines[2]
    assert "LEGACY_BOXES True" in lines[3]
    assert lines[4:] == [f"Wrote {target}"]
    models = []
    for path in (source, target):
        models.append(build_model(small_cfg("free_anchor")))
        AtomicCheckpointer(models[-1]).load(str(path))
    direct, converted = (model.state_dict() for model in models)
    assert torch.load(target)["model"].keys() == converted.keys()
    for name, x in converted.items():
        assert torch.equal(x, direct[name])


X_101_32x4d = dict(depth=101, groups=32, width=4, stride_in_1x1=False)
X_101_64x4d = dict(depth=101, groups=64, width=4, stride_in_1x1=False)
X_101_32x8d = dict(depth=101, groups=32, width=8, stride_in_1x1=False)
CHOSEN = [
    ("ga_rpn", dict(depth=50), ["R_50_FPN_1x"]),
    ("ga_rpn", X_101_64x4d, ["X_101_64x4d_FPN_1x"]),
    ("ga_faster_rcnn", dict(depth=101), ["R_101_FPN_1x"]),
    ("ga_faster_rcnn", X_101_32x4d, ["X_101_32x4d_FPN_1x"]),
    ("ga_retinanet", dict(depth=101), ["R_101_FPN_1x", "R_101_FPN_ms_2x"]),
    ("ga_retinanet", X_101_64x4d, ["X_101_64x4d_FPN_1x"]),
    ("da_retinanet", dict(depth=50), ["R_50_FPN_1x", "R_50_FPN_2x"]),
    ("da_retinanet", dict(depth=101), ["R_101_FPN_1x", "R_101_FPN_2x"]),
    (
        "free_anchor",
        dict(depth=101),
        ["R_101_FPN_1.5x", "R_101_FPN_1x", "R_101_FPN_e2x", "R_101_FPN_j2x"],
    ),
    ("free_anchor", X_101_32x8d, ["X_101_32x8d_FPN_j1.5x"]),
    ("free_anchor", X_101_64x4d, ["X_101_64x4d_FPN_e2x", "X_101_64x4d_FPN_j2x"]),
]


@pytest.mark.parametrize(
    "method, backbone, configs", CHOSEN, ids=[f"{method}_{names[0]}" for method, _, names in CHOSEN]
)
def test_the_shipped_config_is_found(tmp_path, capsys, method, backbone, configs):
    """From files as large as the published ones, but for the values."""
    source = write_published(tmp_path / "x.pth", method, weightless(method, **backbone))
    convert(source, tmp_path / "converted.pth")
    line = capsys.readouterr().out.splitlines()[1]
    prefix = CONFIGS[method].removesuffix("R_50_FPN_1x")
    names = " = ".join(f"{prefix}{name}.yaml" for name in configs)
    assert line.endswith(f"tensors fill all of the model of {names}.")


def test_another_number_of_classes_is_found(tmp_path, capsys):
    weights = weightless("ga_faster_rcnn")
    for layer, outputs in (("fc_cls", 21), ("fc_reg", 80)):
        for key, shape in ((f"{layer}.weight", (outputs, 1024)), (f"{layer}.bias", (outputs,))):
            weights[f"roi_head.bbox_head.{key}"] = torch.zeros(()).expand(shape)
    source = write_published(tmp_path / "x.pth", "ga_faster_rcnn", weights)
    convert(source, tmp_path / "converted.pth")
    said = capsys.readouterr().out
    assert "ga_faster_rcnn_R_50_FPN_1x.yaml" in said
    assert "Use it with MODEL.ROI_HEADS.NUM_CLASSES 20\n" in said


def test_ga_fast_rcnn_of_mmdetection_1(tmp_path, capsys):
    """GA-Faster R-CNN without the proposal generator; with the background, the first class."""
    weights = {
        key.replace("roi_head.bbox_head.", "bbox_head."): x
        for key, x in weightless("ga_faster_rcnn").items()
        if not key.startswith("rpn_head.")
    }
    weights["bbox_head.fc_reg.weight"] = torch.zeros(()).expand(324, 1024)
    weights["bbox_head.fc_reg.bias"] = torch.zeros(()).expand(324)
    source = write_published(tmp_path / "x.pth", "ga_faster_rcnn", weights)
    convert(source, tmp_path / "converted.pth")
    said = capsys.readouterr().out
    assert "GA-Fast R-CNN of mmdetection 1.x" in said
    assert "fill all of the model of guided_anchoring/ga_fast_rcnn_R_50_FPN_1x.yaml" in said

    plain = weights | {"rpn_head.rpn_conv.weight": torch.zeros(256, 256, 3, 3)}
    source = write_published(tmp_path / "plain.pth", "ga_faster_rcnn", plain)
    assert "rpn_head.rpn_conv.weight" in refusal(tmp_path, source, tmp_path / "y.pth")


def test_no_shipped_config_fits(tmp_path, files):
    said = refusal(tmp_path, files[0], files[2])
    assert "these weights match no shipped model" in said
    assert (
        "--config-file" in said and "guided_anchoring/ga_retinanet_X_101_64x4d_FPN_1x.yaml" in said
    )


def test_paths(tmp_path, files):
    source, config, target = files
    options = ["--config-file", config]
    missing = tmp_path / "missing.pth"
    assert f"There is no file {missing}" in refusal(tmp_path, missing, target, *options)
    assert "must end with .pth" in refusal(tmp_path, source, tmp_path / "x.pkl", *options)
    folder = tmp_path / "no/folder"
    assert f"no folder {folder}" in refusal(tmp_path, source, folder / "x.pth", *options)
    (tmp_path / "folder.pth").mkdir()
    said = refusal(tmp_path, source, tmp_path / "folder.pth", *options, "--force")
    assert "folder.pth is a folder: name a file" in said
    (tmp_path / "detectron2.pkl").touch()
    assert "use it in MODEL.WEIGHTS" in refusal(
        tmp_path, tmp_path / "detectron2.pkl", target, *options
    )
    assert "would be overwritten" in refusal(tmp_path, source, source, *options, "--force")
    target.write_text("precious")
    said = refusal(tmp_path, source, target, *options)
    assert f"{target}: choose another output, or overwrite with --force" in said
    convert(source, target, *options, "--force")
    assert "head.conv_loc.weight" in torch.load(target)["model"]


def test_the_wrong_file(tmp_path, files, small_weights):
    source, config, target = files
    options = [target, "--config-file", config]
    content = open(source, "rb").read()
    (tmp_path / "truncated.pth").write_bytes(content[: len(content) // 2])
    assert "is not complete" in refusal(tmp_path, tmp_path / "truncated.pth", *options)
    torch.save({"state_dict": {"bbox_head.scales.0.scale": torch.ones(1)}}, tmp_path / "fcos.pth")
    assert "is of no format that is known here" in refusal(
        tmp_path, tmp_path / "fcos.pth", *options
    )
    convert(source, *options)
    said = refusal(tmp_path, target, tmp_path / "again.pth", "--config-file", config)
    assert "is a Detectron2 checkpoint already" in said


def test_the_wrong_config(tmp_path, files):
    source, _, target = files
    other = write_small_config(tmp_path, "free_anchor")
    said = refusal(tmp_path, source, target, "--config-file", other)
    assert "has weights of GA-RetinaNet of mmdetection, which" in said
    assert "META_ARCHITECTURE is FreeAnchorRetinaNet, not GuidedAnchorRetinaNet" in said
    plain = write_small_config(tmp_path, "ga_rpn", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN")
    weights = small_source("ga_rpn").state_dict()
    write_published(tmp_path / "rpn.pth", "ga_rpn", weights)
    said = refusal(tmp_path, tmp_path / "rpn.pth", target, "--config-file", plain)
    assert "PROPOSAL_GENERATOR.NAME is RPN, not GuidedAnchorRPN" in said
    missing = refusal(tmp_path, source, target, "--config-file", "no/such.yaml")
    assert "There is no config file" in missing


def test_the_style_of_the_backbone(tmp_path, files, small_weights):
    """In the weights there is no trace of where the stride was; mmdetection's config says it."""
    _, config, target = files
    source = tmp_path / "style.pth"
    content = contents("ga_retinanet", small_weights["ga_retinanet"])
    for style in ("pytorch", "caffe"):
        content["meta"]["config"] = f"backbone=dict(type='ResNet', style='{style}')"
        torch.save(content, source)
        if style == "pytorch":
            said = refusal(tmp_path, source, target, "--config-file", config)
            assert 'style "pytorch", but MODEL.RESNETS.STRIDE_IN_1X1 is True' in said
        convert(
            source, target, "--config-file", config, "MODEL.RESNETS.STRIDE_IN_1X1", style == "caffe"
        )
        target.unlink()


def test_what_found_no_partner_is_listed(tmp_path, files, small_weights):
    _, config, target = files
    weights = dict(small_weights["ga_retinanet"])
    options = [target, "--config-file", config]

    def said_of(weights, *overrides):
        source = write_published(tmp_path / "x.pth", "ga_retinanet", weights)
        return refusal(tmp_path, source, *options, *overrides).splitlines()

    lines = said_of(weights, "MODEL.RETINANET.NUM_CLASSES", 7)
    hint = "They have 5 classes, the model 7: add MODEL.RETINANET.NUM_CLASSES 5."
    assert lines[0].endswith(hint)
    assert lines[1:] == [
        "Other shapes in the file (2):",
        "  head.cls_score.weight: (5, 16, 3, 3), in the model (7, 16, 3, 3)",
        "  head.cls_score.bias: (5,), in the model (7,)",
    ]

    deeper = "backbone.layer3.6.conv1.weight"
    lines = said_of(weights | {deeper: torch.zeros(8), "neck.stray": torch.zeros(1)})
    assert lines[1:] == [
        "Unknown keys of the file (1):",
        "  neck.stray",
        "Names that only the file has (1):",
        "  backbone.bottom_up.res4.6.conv1.weight",
    ]
    del weights["backbone.layer4.2.bn3.bias"]
    assert said_of(weights)[1:] == [
        "Names that only the model has (1):",
        "  backbone.bottom_up.res5.2.conv3.norm.bias",
    ]


def test_a_backbone_fills_no_more_than_the_backbone(tmp_path, capsys):
    source, target = tmp_path / "resnet.pth", tmp_path / "converted.pth"
    torch.save(resnet(width=4).state_dict(), source)
    assert "part of many models: choose one" in refusal(tmp_path, source, target)
    config = write_small_config(tmp_path, "ga_rpn")
    convert(source, target, "--config-file", config)
    said = capsys.readouterr().out
    assert f"265 tensors fill all of backbone.bottom_up.* of the model of {config}" in said
    assert "2 other tensors (fc.weight, fc.bias)" in said
    names = torch.load(target)["model"].keys()
    assert len(names) == 265
    assert all(name.startswith("backbone.bottom_up.") for name in names)


def test_an_interrupted_write_leaves_nothing(tmp_path, files, monkeypatch):
    source, config, target = files
    target.write_text("precious")

    def interrupted(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, "--config-file", config, "--force")
    assert target.read_text() == "precious"
    assert not list(tmp_path.glob("*.part"))
