import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.analysis import find_unused_parameters
from detectron2.utils.events import EventStorage
from published import NUM_CLASSES, Published
from small_models import image_with
from tiny_run import finite_gradients

from anchor_heads import model_zoo

LEVELS = ["p3", "p4", "p5", "p6", "p7"]


def published_cfg():
    cfg = model_zoo.get_config("free_anchor/free_anchor_R_50_FPN_1x")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RETINANET.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES = True
    return cfg


@pytest.fixture(scope="module")
def model():
    return build_model(published_cfg()).eval()


def head_arrays(published, prefix):
    """The published head's weights or gradients under Detectron2's names, anchors reordered."""
    names = {"cls_tower": "cls_subnet", "bbox_tower": "bbox_subnet", "cls_logits": "cls_score"}
    arrays = {}
    for key in published.arrays.files:
        if key.startswith(f"{prefix}/"):
            module, _, rest = key.removeprefix(f"{prefix}/").partition(".")
            value = published.tensor(key)
            if module in ("cls_logits", "bbox_pred"):
                value = value.view(3, 3, -1, *value.shape[1:]).transpose(0, 1).flatten(0, 2)
            arrays[f"{names.get(module, module)}.{rest}"] = value
    return arrays


def targets(published):
    instances = []
    for i in range(2):
        size = tuple(published.tensor("image_sizes_hw")[i].tolist())
        instances.append(
            Instances(
                size,
                gt_boxes=Boxes(published.boxes(f"gt/img{i}/boxes")),
                gt_classes=published.classes(f"gt/img{i}/labels"),
            )
        )
    return instances


def test_head_losses_gradients_and_detections_are_the_published_ones(model):
    published = Published("head_forward")
    model.head.load_state_dict(head_arrays(published, "sd"))
    features = [published.tensor(f"feat/{i}").requires_grad_() for i in range(5)]
    logits, deltas = model.head(features)
    for i in range(5):
        torch.testing.assert_close(
            logits[i], published.channels(f"logits/{i}"), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            deltas[i], published.channels(f"deltas/{i}"), rtol=1e-4, atol=1e-5
        )

    instances = targets(Published("head_loss"))
    with EventStorage():
        losses = model.forward_training(None, features, (logits, deltas), instances)
    for name, loss in losses.items():
        expected = published.tensor(f"loss/{name.replace('loss', 'loss_retina')}")
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()
    for i in range(5):
        expected = published.tensor(f"grad_feat/{i}")
        torch.testing.assert_close(features[i].grad, expected, rtol=1e-4, atol=1e-5)
    for name, expected in head_arrays(published, "grad_param").items():
        grad = model.head.get_parameter(name).grad
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)

    sizes = [x.image_size for x in instances]
    images = ImageList(torch.zeros(2, 3, 128, 160), sizes)
    with torch.no_grad():
        results = model.forward_inference(images, features, model.head(features))
    for i, result in enumerate(results):
        assert_same_detections(result, published, f"post/img{i}/det")


def assert_same_detections(result, published, key):
    """The same set: the published code orders detections by class."""
    order = published.tensor(f"{key}/scores").argsort(descending=True, stable=True)
    torch.testing.assert_close(
        result.scores, published.tensor(f"{key}/scores")[order], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        result.pred_boxes.tensor, published.boxes(f"{key}/boxes")[order], rtol=1e-4, atol=1e-3
    )
    assert torch.equal(result.pred_classes, published.classes(f"{key}/labels")[order])


@pytest.mark.parametrize("case,shift", [("crafted/post", 0.0), ("crafted/post_sparse", -2.5)])
def test_detections_are_the_published_ones(model, case, shift):
    published = Published("head_loss")
    logits = [published.channels(f"crafted/logits/{i}") + shift for i in range(5)]
    deltas = [published.channels(f"crafted/deltas/{i}") for i in range(5)]
    sizes = [tuple(x) for x in published.tensor("image_sizes_hw").tolist()]
    images = ImageList(torch.zeros(2, 3, 128, 160), sizes)
    for i, result in enumerate(model.forward_inference(images, logits, (logits, deltas))):
        assert_same_detections(result, published, f"{case}/img{i}/det")


def test_an_image_with_nothing_in_it_has_no_detection(model):
    """Where the published code makes up a box of size 0 with score 0.01."""
    logits = [torch.full((1, 9 * NUM_CLASSES, s, s), -6.0) for s in (16, 8, 4, 2, 1)]
    deltas = [torch.zeros(1, 36, s, s) for s in (16, 8, 4, 2, 1)]
    images = ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)])
    (result,) = model.forward_inference(images, logits, (logits, deltas))
    assert len(result) == 0


def tiny_cfg():
    cfg = published_cfg()
    cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES = False
    return cfg


@pytest.mark.parametrize("objects", [(2, 3), (0, 3), (0, 0)])
def test_every_parameter_learns_in_every_step(objects):
    """Otherwise training on several processes hangs at the first empty image."""
    model = build_model(tiny_cfg()).train()
    batch = [image_with(n) for n in objects]
    with EventStorage():
        losses = model(batch)
        sum(losses.values()).backward()
    assert set(losses) == {"loss_positive", "loss_negative"}
    assert finite_gradients(model)
    with EventStorage():
        unused = find_unused_parameters(model, batch)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not learning & set(unused)


def test_step_under_bfloat16_autocast():
    model = build_model(tiny_cfg()).train()
    batch = [image_with(3), image_with(0)]
    with EventStorage():
        exact = sum(model(batch).values())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = sum(model(batch).values())
    rounded.backward()
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert finite_gradients(model)


def test_state_dict_is_that_of_retinanet():
    cfg = tiny_cfg()
    ours = build_model(cfg).state_dict()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    theirs = build_model(cfg).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_larger_image_of_a_batch_does_not_know_of_its_neighbour():
    model = build_model(tiny_cfg()).eval()
    model.test_score_thresh = 0.0
    batch = [image_with(1, 96, 96), image_with(1, 64, 64)]
    with torch.no_grad():
        together, alone = model(batch)[0]["instances"], model(batch[:1])[0]["instances"]
    assert len(alone) == 100
    torch.testing.assert_close(together.pred_boxes.tensor, alone.pred_boxes.tensor)


def test_legacy_boxes_are_resized_by_their_last_pixel():
    model = build_model(published_cfg()).eval()
    model.test_score_thresh = 0.0
    x = image_with(0, 96, 96)
    with torch.no_grad():
        same = model([x])[0]["instances"]
        double = model([{**x, "height": 192, "width": 192}])[0]["instances"]
    assert len(same) == 100
    expected = same.pred_boxes.tensor * 2
    expected[:, 2:] -= 1
    torch.testing.assert_close(double.pred_boxes.tensor, expected)
