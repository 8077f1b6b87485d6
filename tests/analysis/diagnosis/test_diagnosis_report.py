import json
import re
import shlex

import pytest
from made_case import SIZES, config, made_case, square
from tiny_run import write_config, write_data_set

from anchor_heads import get_cfg
from anchor_heads.analysis.diagnosis import Diagnosis, Finding, Suggestion, diagnose
from anchor_heads.cli import main

# What the tiny run, made to take a few steps, lacks: anchors for the two shapes, and a schedule.
GOOD = ["MODEL.ANCHOR_GENERATOR.SIZES", [[23], [28]], "MODEL.RETINANET.IN_FEATURES", ["p3", "p4"]]
GOOD += ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.4, 0.6, 1.0]]]
GOOD += ["MODEL.RPN.IN_FEATURES", ["p3", "p4"], "MODEL.RETINANET.BBOX_REG_WEIGHTS", (10, 10, 5, 5)]
GOOD += ["SOLVER.MAX_ITER", 72, "SOLVER.STEPS", (48,), "SOLVER.BASE_LR", 0.00125]
GOOD += ["MODEL.FREE_ANCHOR.BAG_SIZE", 20]
GOOD += ["INPUT.MIN_SIZE_TRAIN", (60,), "INPUT.MIN_SIZE_TEST", 60]


def run_tool(monkeypatch, capsys, *command_line) -> str:
    main.run("diagnose", [*map(str, command_line)])
    return capsys.readouterr().out


@pytest.fixture
def config_file(tmp_path):
    write_data_set(tmp_path, num_images=24)
    return write_config(tmp_path, overrides=GOOD)


def test_a_good_config_has_nothing_to_mend(config_file, tmp_path, monkeypatch, capsys):
    said = run_tool(monkeypatch, capsys, config_file)
    assert f"Training data: {tmp_path.name}, 24 images with 36 objects of 2 classes." in said
    assert "FreeAnchorRetinaNet on p3, p4 (strides 8, 16), sizes from 23 to 28" in said
    assert said.endswith("Nothing was found that will hurt.\n")


def test_what_is_found_is_printed_and_written(config_file, tmp_path, monkeypatch, capsys):
    json_file = tmp_path / "new/diagnosis.json"
    overrides = ["SOLVER.MAX_ITER", 3, "SOLVER.BASE_LR", 0.01, "MODEL.RETINANET.NUM_CLASSES", 80]
    said = run_tool(monkeypatch, capsys, config_file, "--json", json_file, *overrides)
    severities = [
        line.split()[0] for line in said.splitlines() if re.match("error|warning|note", line)
    ]
    assert severities == ["error", "warning", "warning", "warning", "warning", "errors:"]
    assert "\n         -> MODEL.RETINANET.NUM_CLASSES 2\n" in said
    assert "errors: 1, warnings: 4, notes: 0." in said

    content = json.loads(json_file.read_text())
    findings = {finding["name"]: finding for finding in content["findings"]}
    assert list(findings)[0] == "number_of_classes"
    assert set(findings) == {
        "number_of_classes",
        "learning_rate",
        "few_epochs",
        "steps_after_end",
        "long_warmup",
    }
    assert findings["learning_rate"]["numbers"] == {"rate": 0.01, "ratio": 8.0}
    assert findings["learning_rate"]["changes"] == {"SOLVER.BASE_LR": 0.00125}
    assert findings["learning_rate"]["severity"] == "warning"
    assert len(content["summary"]) == 3


def test_values_can_be_pasted_behind_a_command():
    sides = {"MODEL.RPN.IN_FEATURES": ["p3", "p4"], "SOLVER.STEPS": (3, 4)}
    finding = Finding("made", "note", "x", {}, Suggestion({**sides, "SOLVER.MAX_ITER": None}))
    case = made_case(config(), [square(84, 32)])
    said = str(Diagnosis(case, {"made": finding}))
    lines = [line.split("-> ")[1] for line in said.splitlines() if "-> " in line]
    assert lines[2] == "SOLVER.MAX_ITER"
    cfg = get_cfg()
    cfg.merge_from_list(shlex.split(" ".join(lines[:2])))
    assert cfg.MODEL.RPN.IN_FEATURES == ["p3", "p4"] and cfg.SOLVER.STEPS == (3, 4)
    assert "Anchors: RetinaNet on p3, p4, p5 (strides 8, 16, 32), sizes from 32 to 128." in said


def test_suggestions_together():
    sizes, features = "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.RETINANET.IN_FEATURES"
    suggestions = [{sizes: [[8]]}, {"A": None}, {features: ["p3"], sizes: [[16]]}, {"B": (1, 2)}]
    findings = [Finding(str(i), "note", "x", {}, Suggestion(x)) for i, x in enumerate(suggestions)]
    findings = {finding.name: finding for finding in findings}
    diagnosis = Diagnosis(made_case(config(), [square(84, 32)]), findings)
    assert diagnosis.recipe == diagnosis.to_json()["recipe"] == {sizes: [[8]], "B": (1, 2)}
    assert str(diagnosis).endswith(
        f"All values together, to append to a command:\n{sizes} '[[8]]' B '(1, 2)'\n\n"
        "What anchors reach changes with them: run this again with them."
    )


def test_sizes_counted_for_another_input_size_are_not_suggested_with_it():
    both = {"INPUT.MIN_SIZE_TRAIN": (9,), SIZES: [[4]]}
    for suggestions, expected in (
        ([{"INPUT.MIN_SIZE_TRAIN": (9,)}, {SIZES: [[8]]}], {"INPUT.MIN_SIZE_TRAIN": (9,)}),
        ([both], both),
    ):
        findings = {
            str(i): Finding(str(i), "note", "x", {}, Suggestion(x))
            for i, x in enumerate(suggestions)
        }
        assert Diagnosis(made_case(config(), [square(84, 32)]), findings).recipe == expected


def test_a_missing_data_set_is_said(config_file, monkeypatch, capsys):
    with pytest.raises(ValueError, match="there is no data set 'absent'"):
        run_tool(monkeypatch, capsys, config_file, "DATASETS.TRAIN", "('absent',)")


@pytest.mark.parametrize(
    "architecture, generator, anchors",
    [
        ("GuidedAnchorRetinaNet", "RPN", "GuidedAnchorRetinaNet on p3, p4"),
        ("DynamicAnchorRetinaNet", "RPN", "DynamicAnchorRetinaNet on p3, p4"),
        ("GeneralizedRCNN", "GuidedAnchorRPN", "GuidedAnchorRPN on p3, p4"),
        ("ProposalNetwork", "RPN", "RPN on p3, p4"),
        ("GeneralizedRCNN", "PrecomputedProposals", "the model has none that could be diagnosed"),
    ],
)
def test_every_kind_of_model(config_file, architecture, generator, anchors):
    cfg = get_cfg()
    cfg.merge_from_file(config_file)
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = generator
    diagnosis = diagnose(cfg)
    assert "36 objects of 2 classes" in str(diagnosis) and f"Anchors: {anchors}" in str(diagnosis)
    assert list(json.loads(json.dumps(diagnosis.to_json()))["recipe"]) == list(diagnosis.recipe)
