import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.utils.events import EventStorage
from published import NUM_CLASSES, STRIDES, Published
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_heads import get_cfg
from anchor_heads.modeling import matching
from anchor_heads.projects.free_anchor.legacy import cell_anchors
from anchor_heads.projects.free_anchor.losses import log1mexp, negative_loss, positive_bag_loss
from anchor_heads.projects.free_anchor.strategy import FreeAnchorLoss

PUBLISHED_LOSS = dict(
    box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)), smooth_l1_beta=0.11
)


@pytest.fixture(scope="module")
def published():
    return Published("head_loss")


def published_anchors(shapes):
    anchors = []
    for stride, (h, w) in zip(STRIDES, shapes, strict=True):
        cell = cell_anchors([4 * stride * 2 ** (k / 3) for k in range(3)], [0.5, 1, 2], stride)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        shift = (torch.stack([x, y, x, y], dim=-1) + 0.5) * stride
        anchors.append((shift[:, :, None] + cell).view(-1, 4))
    return torch.cat(anchors)


def inputs(published, case):
    logits = [published.channels(f"crafted/logits/{i}") for i in range(5)]
    deltas = [published.channels(f"crafted/deltas/{i}") for i in range(5)]
    boxes = [published.boxes(f"gt/img{i}/boxes") for i in range(2)]
    classes = [published.classes(f"gt/img{i}/labels") for i in range(2)]
    if case == "saturated":
        for x in logits:  # channel 3 is the first anchor's class 3
            x[0, 3, 0, 0] = 20
    if case == "zero_deltas":
        deltas = [torch.zeros_like(x) for x in deltas]
    for i in {"one_empty": [1], "all_empty": [0, 1]}.get(case, []):
        boxes[i], classes[i] = boxes[i][:0], classes[i][:0]
    return logits, deltas, boxes, classes


def run(logits, deltas, boxes, classes, dtype=torch.float32, **kwargs):
    logits = [x.clone().to(dtype).requires_grad_() for x in logits]
    deltas = [x.clone().to(dtype).requires_grad_() for x in deltas]
    with EventStorage() as storage:
        losses = FreeAnchorLoss(**{**PUBLISHED_LOSS, **kwargs})(
            published_anchors([x.shape[2:] for x in logits]),
            torch.cat([permute_to_N_HWA_K(x, NUM_CLASSES) for x in logits], dim=1),
            torch.cat([permute_to_N_HWA_K(x, 4) for x in deltas], dim=1),
            boxes,
            classes,
        )
    sum(losses).backward()
    return losses, [x.grad for x in logits], [x.grad for x in deltas], storage


@pytest.mark.parametrize("case", ["crafted", "zero_deltas", "one_empty", "all_empty"])
def test_losses_and_gradients_are_the_published_ones(published, case):
    (positive, negative), grad_logits, grad_deltas, _ = run(*inputs(published, case))
    for loss, name in ((positive, "positive"), (negative, "negative")):
        expected = published.tensor(f"{case}/loss/loss_retina_{name}")
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)
    for kind, grads in (("logits", grad_logits), ("deltas", grad_deltas)):
        for level, grad in enumerate(grads):
            expected = published.channels(f"{case}/grad_{kind}/{level}")
            torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-5)


def naive_loss(anchors, logits, deltas, boxes, classes):
    """The published formulas as they are written, in float64 probabilities, dense."""
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    positive, negative = [], []
    for x, d, b, c in zip(logits, deltas, boxes, classes, strict=True):
        p = x.sigmoid()
        localized = torch.zeros_like(x)
        if len(b):
            decoded = transform.apply_deltas(d.detach(), anchors)
            iou = dense_iou(b, decoded.double())
            best = iou.max(dim=1, keepdim=True).values.clamp(min=0.6 + 1e-12)
            object_prob = ((iou - 0.6) / (best - 0.6)).clamp(0, 1)
            for prob, k in zip(object_prob, c, strict=True):
                localized[:, k] = torch.maximum(localized[:, k], prob)
            for box, k, overlap in zip(b, c, dense_iou(b, anchors), strict=True):
                bag = overlap.topk(50).indices
                target = transform.get_deltas(anchors[bag], box.expand(50, 4))
                diff = (d[bag] - target).abs()
                smooth_l1 = torch.where(diff < 0.11, 0.5 / 0.11 * diff**2, diff - 0.055).sum(dim=1)
                q = p[bag, k] * torch.exp(-0.75 * smooth_l1)
                weight = 1 / (1 - q)
                positive.append(-torch.log((weight * q).sum() / weight.sum()))
        z = p * (1 - localized)
        negative.append((z**2 * -torch.log1p(-z)).sum())
    n = len(positive)
    return 0.5 * sum(positive) / max(1, n), 0.5 * sum(negative) / max(1, 50 * n)


def dense_iou(a, b):
    lt, rb = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(dim=2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(dim=1) for x in (a, b))
    return inter / (area_a[:, None] + area_b - inter)


@pytest.mark.parametrize("case", ["crafted", "saturated"])
def test_saturated_logits_give_the_value_of_float64(published, case):
    logits, deltas, boxes, classes = inputs(published, case)
    (positive, negative), grad_logits, grad_deltas, _ = run(logits, deltas, boxes, classes)

    x = [y.double().requires_grad_() for y in logits]
    d = [y.double().requires_grad_() for y in deltas]
    exact = naive_loss(
        published_anchors([y.shape[2:] for y in logits]).double(),
        torch.cat([permute_to_N_HWA_K(y, NUM_CLASSES) for y in x], dim=1),
        torch.cat([permute_to_N_HWA_K(y, 4) for y in d], dim=1),
        [y.double() for y in boxes],
        classes,
    )
    sum(exact).backward()
    assert positive.item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert negative.item() == pytest.approx(exact[1].item(), rel=1e-5)
    for ours, theirs in zip(grad_logits + grad_deltas, x + d, strict=True):
        torch.testing.assert_close(ours, theirs.grad.float(), rtol=1e-4, atol=1e-6)
    if case == "saturated":  # where float32 probabilities cost more than the exact 1.69
        assert published.tensor("saturated/loss/loss_retina_negative") > negative + 0.5


EXTREMES = {
    "all -100": lambda x: torch.full_like(x, -100.0),
    "all 30": lambda x: torch.full_like(x, 30.0),
    "all 100": lambda x: torch.full_like(x, 100.0),
    "some -100, some 100": lambda x: torch.randn_like(x).sign() * 100,
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_finite_for_extreme_logits_and_boxes(published, extreme, offset):
    logits, deltas, boxes, classes = inputs(published, "crafted")
    logits = [EXTREMES[extreme](x) for x in logits]
    deltas = [x + offset * torch.randn_like(x) for x in deltas]
    losses, grad_logits, grad_deltas, _ = run(logits, deltas, boxes, classes)
    assert all(loss.isfinite() for loss in losses)
    assert all(grad.isfinite().all() for grad in grad_logits + grad_deltas)


def test_a_perfect_anchor_costs_its_object_nothing():
    """Logit 100 and the exact box: probability 1 in float32, where 1 / (1 - P) is infinite."""
    log_match = torch.tensor([[0.0, -50.0, -3.0], [-1e-30, 0.0, -1e4]], requires_grad=True)
    losses = positive_bag_loss(log_match)
    losses.sum().backward()
    assert losses.detach().max() < 1e-11
    assert log_match.grad.isfinite().all()


@pytest.mark.parametrize("num_objects", [1, 500])
def test_any_number_of_objects(published, num_objects):
    logits, deltas, _, _ = inputs(published, "crafted")
    corner = torch.rand(num_objects, 2) * torch.tensor([120.0, 90.0])
    boxes = [torch.cat([corner, corner + 8 + 24 * torch.rand(num_objects, 2)], dim=1)] * 2
    classes = [torch.randint(NUM_CLASSES, (num_objects,))] * 2
    losses, grad_logits, grad_deltas, storage = run(logits, deltas, boxes, classes)
    assert all(0 < loss < 10 for loss in losses)
    assert all(grad.isfinite().all() for grad in grad_logits + grad_deltas)
    assert storage.latest()["free_anchor/num_objects"][0] == num_objects


class LargestTensor(TorchDispatchMode):
    """Remembers how many entries the largest tensor had that any operation made."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (list, tuple)) else [out]
        sizes = [x.numel() for x in made if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return out


def test_no_tensor_grows_as_objects_times_anchors(published, monkeypatch):
    monkeypatch.setitem(matching.CHUNK_ENTRIES, "cpu", 2**16)
    logits, deltas, _, _ = inputs(published, "crafted")
    corner = torch.rand(400, 2) * torch.tensor([120.0, 90.0])
    boxes = [torch.cat([corner, corner + 16], dim=1)] * 2
    with LargestTensor() as largest:
        run(logits, deltas, boxes, [torch.randint(NUM_CLASSES, (400,))] * 2)
    num_anchors = 3852
    # The bags' box targets, 2 x 400 x 50 x 4, are the largest; 400 x 3852 is ten times that.
    assert largest.entries <= 2 * 400 * 50 * 4 < 400 * num_anchors / 9


def test_fewer_anchors_than_the_bag_holds():
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16]])
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    deltas = torch.zeros(1, 3, 4, requires_grad=True)
    with EventStorage():
        positive, negative = FreeAnchorLoss(**PUBLISHED_LOSS)(
            anchors, logits, deltas, [anchors[:1].clone()], [torch.tensor([1])]
        )
    (positive + negative).backward()
    # A bag of three anchors: P = 1/2 for the first, about 0 for the others; odds (1 + 0 + 0) / 3.
    assert positive.item() == pytest.approx(0.5 * math.log(4), rel=1e-3)
    # Five of six logits are background at z = 1/2; the normaliser keeps the published 50.
    assert negative.item() == pytest.approx(0.5 * 5 * 0.25 * math.log(2) / 50, rel=1e-5)
    assert deltas.grad.isfinite().all()


def test_with_the_iou_loss_the_likelihood_is_the_iou_itself():
    """One anchor of probability 0.5, whose box covers the upper half of the object."""
    anchors, gt = torch.tensor([[0.0, 0, 8, 4]]), torch.tensor([[0.0, 0, 8, 8]])
    loss = FreeAnchorLoss(
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        smooth_l1_beta=0.0,
        box_reg_loss_type="iou",
        box_loss_weight=0.75,
    )
    deltas = torch.zeros(1, 1, 4, requires_grad=True)
    classes = [torch.tensor([0])]
    _, log_matches = loss.log_matches(anchors, torch.zeros(1, 1, 1), deltas, [gt], classes)
    assert log_matches.exp().item() == pytest.approx(0.5 * 0.5**0.75, rel=1e-5)
    log_matches.sum().backward()
    assert deltas.grad[0, 0, 3] > 0  # the box is to be taller


def losses_by_hand(bag_size=50, box_iou_thresh=0.6, box_loss_weight=0.75, alpha=0.5, gamma=2.0):
    """Both losses, and the probability of the bag, of an object whose two anchors have IoUs of 1
    and 0.75 and class probabilities of 0.5."""
    matches = [0.5, 0.5 * 0.75**box_loss_weight][:bag_size]
    odds = sum(p / (1 - p) for p in matches) / len(matches)
    localized = max(0, (0.75 - box_iou_thresh) / (1 - box_iou_thresh))
    background = 0.5 * (1 - localized)
    negative = background**gamma * -math.log(1 - background) / bag_size
    return alpha * math.log(1 + 1 / odds), (1 - alpha) * negative, odds / (1 + odds)


@pytest.mark.parametrize(
    "key,value,localized",
    [("BAG_SIZE", 1, 2), ("BOX_IOU_THRESH", 0.7, 2), ("BOX_IOU_THRESH", 0.8, 1)]
    + [("BOX_LOSS_WEIGHT", 2.0, 2), ("ALPHA", 0.3, 2), ("GAMMA", 1.0, 2)],
)
def test_keys_of_the_config(key, value, localized):
    """A batch of two images with the same object has the losses and statistics of one."""
    cfg = get_cfg()
    cfg.MODEL.FREE_ANCHOR[key] = value
    loss = FreeAnchorLoss(cfg, Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), 0.0, "iou")
    anchors = torch.tensor([[0.0, 0, 8, 8], [0, 1, 8, 7]])
    with EventStorage() as storage:
        losses = loss(
            anchors,
            torch.zeros(2, 2, 1),
            torch.zeros(2, 2, 4),
            [anchors[:1]] * 2,
            [torch.tensor([0])] * 2,
        )
    *expected, probability = losses_by_hand(**{key.lower(): value})
    assert [x.item() for x in losses] == pytest.approx(expected, rel=1e-5)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["free_anchor/num_localized"] == localized
    assert latest["free_anchor/bag_probability"] == pytest.approx(probability)


@pytest.mark.parametrize("key,value", [("bag_size", 0), ("gamma", 0.0)])
def test_settings_without_meaning_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}"):
        FreeAnchorLoss(**PUBLISHED_LOSS, **{key: value})


def test_bfloat16_predictions_are_computed_in_float32(published):
    logits, deltas, boxes, classes = inputs(published, "crafted")
    exact, *_ = run(logits, deltas, boxes, classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, *_ = run(logits, deltas, boxes, classes, dtype=torch.bfloat16)
    assert all(loss.dtype == torch.float32 for loss in rounded)
    assert sum(rounded).item() == pytest.approx(sum(exact).item(), rel=0.02)


def test_log1mexp_is_exact_at_both_ends():
    x = torch.tensor([-1e-30, -1e-6, -0.5, -0.6931472, -1.0, -20.0, -100.0, -1e4])
    exact = torch.log(-torch.expm1(x.double().clamp(max=-1e-12))).float()
    torch.testing.assert_close(log1mexp(x), exact, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 2.5])
def test_negative_loss_gradient_is_that_of_autograd(gamma):
    x = torch.randn(7, 11, requires_grad=True)
    index, localized = torch.tensor([0, 30, 76]), torch.tensor([0.25, 1.0, 1e-3])
    loss = negative_loss(x, index, localized, gamma)
    loss.backward(torch.tensor(3.0))

    y = x.detach().double().requires_grad_()
    z = y.sigmoid() * (1 - torch.zeros(77).double().index_put((index,), localized.double())).view(
        7, 11
    )
    exact = (z**gamma * -torch.log1p(-z)).sum()
    (3 * exact).backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    torch.testing.assert_close(x.grad, y.grad.float(), rtol=1e-4, atol=1e-6)
