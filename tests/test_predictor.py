import pytest
import torch
from tiny_run import write_model

from anchor_heads import get_cfg
from anchor_heads.predictor import PROPOSALS, annotated_categories, load_predictor, renamed

CELLS = [{"id": 3, "name": "red"}, {"id": 7, "name": "white"}]


def loaded(folder, meta_architecture="FreeAnchorRetinaNet", change=None, *overrides):
    cfg = get_cfg()
    if not (folder / "config.yaml").exists():
        write_model(folder, meta_architecture)
    cfg.merge_from_file(str(folder / "config.yaml"))
    weights = folder / "model.pth"
    if change:
        content = torch.load(weights)
        change(content)
        torch.save(content, weights)
    cfg.merge_from_list(["MODEL.WEIGHTS", str(weights), "DATASETS.TEST", (), *overrides])
    return load_predictor(cfg)


def test_classes_have_the_names_and_ids_that_training_noted(tmp_path, caplog):
    _, categories = loaded(tmp_path)
    assert categories == [{"id": 0, "name": "0"}, {"id": 1, "name": "1"}]
    assert "names of the model's 2 classes are not known" in caplog.text
    assert "MODEL.CLASS_NAMES gives them names" in caplog.text
    given = "MODEL.CLASS_NAMES", ["red", "white"], "MODEL.CATEGORY_IDS", [3, 7]
    assert loaded(tmp_path, "", None, *given)[1] == CELLS

    def note(content):
        content |= {"class_names": ["red", "white"], "category_ids": [3, 7]}

    def note_fewer_ids(content):
        content |= {"class_names": ["red", "white"], "category_ids": [3]}

    assert loaded(tmp_path, change=note_fewer_ids)[1] == categories
    caplog.clear()
    assert loaded(tmp_path, change=note)[1] == CELLS and "not known" not in caplog.text


@pytest.mark.parametrize("name", ["GeneralizedRCNN", "ProposalNetwork"])
def test_two_stage_models_and_proposals(tmp_path, name):
    _, categories = loaded(tmp_path, name)
    assert len(categories) == (2 if name == "GeneralizedRCNN" else 1)


def test_categories_of_an_annotation_file_are_found_by_name_or_order(caplog):
    listed = [{"id": 9, "name": "white"}, {"id": 12, "name": "red"}]
    assert [x["id"] for x in annotated_categories(CELLS, {"categories": listed}, "x")] == [12, 9]
    assert not caplog.text
    listed = [{"id": 9, "name": "B"}, {"id": 4, "name": "A", "supercategory": "cell"}]
    assert [x["id"] for x in annotated_categories(CELLS, {"categories": listed}, "x")] == [4, 9]
    assert "red is A, white is B" in caplog.text
    listed[1]["name"] = "red"  # in place
    assert [x["id"] for x in annotated_categories(CELLS, {"categories": listed}, "x")] == [4, 9]
    listed[1]["name"] = "white"
    with pytest.raises(ValueError, match="classes red, white, and x in the order .* white, B: som"):
        annotated_categories(CELLS, {"categories": listed}, "x")
    listed[1]["name"] = "A"
    (first,) = annotated_categories(PROPOSALS, {"categories": listed}, "x")
    assert first["id"] == 4
    with pytest.raises(ValueError, match="has 1 classes, and x has 2"):  # of a detector
        annotated_categories([{"id": 1, "name": "object"}], {"categories": listed}, "x")
    with pytest.raises(ValueError, match=r"has 2 classes, and x has 1 \(A\)"):
        annotated_categories(CELLS, {"categories": listed[1:]}, "x")


def test_classes_can_be_renamed():
    assert renamed(CELLS, ["rouge", "blanc"])[0] == {"id": 3, "name": "rouge"}
    with pytest.raises(ValueError, match="has 2 classes, and --class-names 1 names"):
        renamed(CELLS, ["a"])
    for names in (["a", "a"], ["a", ""]):
        with pytest.raises(ValueError, match="each class needs a name of its own"):
            renamed(CELLS, names)


def test_weights_must_be_there_and_fit(tmp_path):
    def fill(content):
        content["model"]["head.cls_score.bias"].fill_(1.25)

    predictor, _ = loaded(tmp_path, change=fill)
    assert (predictor.model.head.cls_score.bias == 1.25).all()
    with pytest.raises(ValueError, match="name a checkpoint with --weights"):
        loaded(tmp_path, "", None, "MODEL.WEIGHTS", "")
    with pytest.raises(FileNotFoundError, match="no file .*/none.pth"):
        loaded(tmp_path, "", None, "MODEL.WEIGHTS", "none.pth")
    with pytest.raises(ValueError, match=r"lacks 1 of the model's .* parameters.*head.cls_score"):
        loaded(tmp_path, change=lambda content: content["model"].pop("head.cls_score.weight"))
    with pytest.raises(ValueError, match="needs precomputed proposals"):
        loaded(
            tmp_path / "rcnn",
            "GeneralizedRCNN",
            None,
            "MODEL.PROPOSAL_GENERATOR.NAME",
            "PrecomputedProposals",
        )
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'L'"):
        loaded(tmp_path, "", None, "INPUT.FORMAT", "L")
