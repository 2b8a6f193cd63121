"""`ssmtl evaluate` on label files: how they are paired, what their values mean, what comes out, what is refused."""

import csv
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt

from ssmtl_toolkit.config import EvaluateConfig, scoring
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation import scores
from ssmtl_toolkit.evaluation.evaluate import evaluate

AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


def write(file, array, affine=AFFINE, dtype=np.uint8):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, dtype), affine), file)
    return file


def label_map(seed=0, values=(1, 2)):
    """Two boxes in a volume of 12 x 10 x 6."""
    made = np.zeros((12, 10, 6), np.uint16)
    at = np.random.default_rng(seed).integers(0, 3)
    made[at : at + 6, 2:7, 1:5] = values[0]
    made[at + 6 : at + 9, 2:7, 1:5] = values[1]
    return made


def moved(array):
    return np.roll(array, 1, axis=1)


@pytest.fixture
def folders(tmp_path):
    """Predictions `out` and labels `labels` of three scans, the predictions moved by one voxel."""
    for i in range(3):
        write(tmp_path / "labels" / f"p{i}.nii.gz", label_map(i))
        write(tmp_path / "out" / f"p{i}.nii.gz", moved(label_map(i)))
    return tmp_path


def scored(ssmtl, *more, pred="out", label="labels"):
    done = ssmtl("evaluate", "--pred", pred, "--label", label, "--json", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def brute(pred, label, value):
    ours, theirs = pred == value, label == value
    both = np.sum(ours & theirs)
    return both / np.sum(ours | theirs), 2 * both / (np.sum(ours) + np.sum(theirs))


def test_folders_are_scored_by_class_and_scan_and_summed_up(ssmtl, folders):
    found = scored(ssmtl)
    pairs = [(moved(label_map(i)), label_map(i)) for i in range(3)]
    pooled = [np.concatenate(side) for side in zip(*pairs, strict=True)]
    assert list(found["classes"]) == ["1", "2"]
    for value in (1, 2):
        one = found["classes"][str(value)]
        each = [brute(*pair, value) for pair in pairs]
        assert one["iou"] == pytest.approx(brute(*pooled, value)[0])
        assert one["dice"]["mean"] == pytest.approx(np.mean([dice for _, dice in each]))
        assert [scan["classes"][str(value)]["iou"] for scan in found["scans"]] == pytest.approx([i for i, _ in each])
        assert one["hd95"]["mean"] == pytest.approx(0.8)  # mm: one voxel along the second axis
        assert one["surface_dice"]["mean"] == 1
    assert found["mean"]["iou"] == pytest.approx(np.mean([brute(*pooled, value)[0] for value in (1, 2)]))
    assert [scan["name"] for scan in found["scans"]] == ["p0", "p1", "p2"]
    assert found["unpaired"] == {"predictions": 0, "labels": 0}
    assert found["notes"] == ["label classes by their values: 1, 2; --classes names them"]


def test_without_json_the_table_is_the_result_on_stdout(ssmtl, folders):
    done = ssmtl("evaluate", "--pred", "out", "--label", "labels", "--classes", "[red]left=1,right=2,none=9")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("class"))
    headings = ["class", "IoU (pooled)", "Dice", "HD95 (mm)", "surface Dice", "undefined"]
    assert re.split("  +", lines[head].rstrip()) == headings  # and not "penalised", which no class is
    assert " ".join(lines[head + 1].split()) == "[red]left 0.667 0.800 ± 0.000 0.80 ± 0.00 1.000 ± 0.000"
    assert lines[head + 3].split() == ["none", "-", "-", "-", "-", "3"]
    assert lines[head + 4].split() == ["mean", "0.667", "0.800", "0.80", "1.000"]
    assert "surface Dice: within 1 mm" in done.stdout
    assert "HD95: lower is better." in done.stdout
    assert scores.RULE in done.stdout


def test_classes_that_are_penalised_or_undefined_nowhere_need_no_columns_and_no_rule(ssmtl, folders):
    done = ssmtl("evaluate", "--pred", "out", "--label", "labels", "--no-surface")
    lines = done.stdout.splitlines()
    assert re.split("  +", lines[0].rstrip()) == ["class", "IoU (pooled)", "Dice"]
    assert lines[-1] == "3 scans; ± is the standard deviation over scans"


def test_the_tolerance_of_surface_dice_is_in_mm_and_surface_scores_can_be_left_out(ssmtl, folders):
    assert scored(ssmtl, "--tolerance", 0.5)["mean"]["surface_dice"] < 1
    found = scored(ssmtl, "--no-surface")
    assert list(found["mean"]) == ["iou", "dice"]
    assert "hd95" not in found["classes"]["1"]
    said = scored(ssmtl, "--no-surface", "--tolerance", 0.5)["notes"]
    assert "--tolerance 0.5: has no effect, no surface Dice is computed" in said


def test_a_file_is_scored_against_a_file_whatever_their_names(ssmtl, folders):
    found = scored(ssmtl, pred="out/p0.nii.gz", label="labels/p1.nii.gz")
    assert [scan["name"] for scan in found["scans"]] == ["p0.nii.gz"]
    assert scored(ssmtl, pred="labels/p1.nii.gz", label="labels/p1.nii.gz")["mean"]["iou"] == 1


def test_files_are_paired_by_their_paths_without_suffix(ssmtl, tmp_path):
    write(tmp_path / "labels/a/x.nii", label_map(0))
    write(tmp_path / "labels/b/x.nii", label_map(1))
    write(tmp_path / "out/a/x.nii.gz", label_map(0))
    write(tmp_path / "out/b/x.nii.gz", label_map(1))
    write(tmp_path / "out/.hidden/x.nii.gz", label_map(1))
    (tmp_path / "out/b/loop").symlink_to(tmp_path / "out")
    found = scored(ssmtl)
    assert [scan["name"] for scan in found["scans"]] == ["a/x", "b/x"]
    assert found["mean"]["dice"] == 1


def test_what_has_no_counterpart_is_named_and_counted(ssmtl, folders):
    for i in range(13):
        write(folders / "labels" / f"more{i:02}.nii.gz", label_map())
    write(folders / "out" / "extra.nii.gz", label_map())
    done = ssmtl("evaluate", "--pred", "out", "--label", "labels", "--json")
    assert json.loads(done.stdout)["unpaired"] == {"predictions": 1, "labels": 13}
    assert "1 predictions have no label and are not scored: extra" in done.stderr
    assert "13 labels have no prediction and are not scored: more00, more01" in done.stderr
    assert "more09, … and 3 more" in done.stderr


def test_scores_are_written_as_csv_with_a_line_for_each_scan_and_class(ssmtl, folders):
    write(folders / "labels" / "=cmd.nii.gz", label_map())
    write(folders / "out" / "=cmd.nii.gz", np.where(label_map() == 1, 1, 0))
    found = scored(ssmtl, "--classes", "a=1,b=2", "--csv", "tables/scores.csv")
    with (folders / "tables/scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[0]["scan"] == "'=cmd"  # no formula
    assert (rows[1]["class"], rows[1]["iou"], rows[1]["penalised"]) == ("b", "0.0", "True")
    assert float(rows[2]["hd95"]) == found["scans"][1]["classes"]["a"]["hd95"]


def test_companions_of_predictions_are_no_predictions_and_nnunet_channels_are_left_off(ssmtl, folders):
    for file in list((folders / "out").iterdir()):
        shutil.copy(file, folders / "out" / file.name.replace(".nii.gz", "_probabilities.nii.gz"))
    shutil.move(folders / "out" / "p1.nii.gz", folders / "out" / "p1_0000.nii.gz")
    shutil.move(folders / "out" / "p1_probabilities.nii.gz", folders / "out" / "p1_0000_probabilities.nii.gz")
    (folders / "out" / "prediction.json").write_text("{}")
    found = scored(ssmtl)
    assert [scan["name"] for scan in found["scans"]] == ["p0", "p1", "p2"]
    assert found["unpaired"] == {"predictions": 0, "labels": 0}
    shutil.copy(folders / "out" / "p1_0000.nii.gz", folders / "out" / "p1_0001.nii.gz")
    refused(ssmtl, 3, "p1_0001.nii.gz: and ", "are both for the label p1; keep one")


def test_probabilities_in_folders_below_prediction_json_are_no_predictions_either(ssmtl, folders):
    for part in ("out", "labels"):
        (folders / part / "a").mkdir()
        shutil.move(folders / part / "p1.nii.gz", folders / part / "a" / "p1.nii.gz")
    shutil.copy(folders / "out" / "a" / "p1.nii.gz", folders / "out" / "a" / "p1_probabilities.nii.gz")
    (folders / "out" / "prediction.json").write_text("{}")
    assert scored(ssmtl)["unpaired"] == {"predictions": 0, "labels": 0}


# What the values mean


def test_classes_merge_values_and_predictions_may_write_any_of_them(ssmtl, tmp_path):
    write(tmp_path / "labels/x.nii.gz", label_map(values=(420, 421)), dtype=np.uint16)
    write(tmp_path / "out/x.nii.gz", np.where(label_map() > 0, 420, 0), dtype=np.uint16)
    assert scored(ssmtl, "--classes", "LA=420+421")["classes"]["LA"]["iou"] == 1


def test_predictions_say_by_their_json_what_their_values_mean(ssmtl, folders):
    classes = Classes.parse("whole=1+2")
    (folders / "out/prediction.json").write_text(json.dumps({"classes": classes.to_json(), "other": 1}))
    found = scored(ssmtl)
    assert list(found["classes"]) == ["whole"]
    assert found["class_values"] == classes.to_json()
    assert found["notes"] == []
    assert list(scored(ssmtl, pred="out/p0.nii.gz", label="labels/p0.nii.gz")["classes"]) == ["whole"]


def test_classes_that_are_not_chosen_count_as_background(ssmtl, folders):
    known = Classes.parse("left=1,right=2")
    (folders / "out/prediction.json").write_text(json.dumps({"classes": known.to_json()}))
    found = scored(ssmtl, "--classes", "right")
    assert list(found["classes"]) == ["right"]
    assert found["classes"]["right"]["iou"] == pytest.approx(2 / 3)
    done = ssmtl("evaluate", "--pred", "out", "--label", "labels", "--classes", "rihgt")
    assert done.returncode == 2
    assert "did you mean 'right'?" in done.stderr


def test_a_damaged_json_beside_the_predictions_is_named(ssmtl, folders):
    for text in ("{", "[]", '{"classes": {}}'):
        (folders / "out/prediction.json").write_text(text)
        done = ssmtl("evaluate", "--pred", "out", "--label", "labels")
        assert done.returncode == 3
        assert "out/prediction.json: " in done.stderr


def test_ignored_voxels_count_in_no_score(ssmtl, tmp_path):
    label = label_map()
    pred = moved(label)
    hidden = np.where((pred != label), 255, label)  # nobody annotated where they differ
    write(tmp_path / "labels/x.nii.gz", hidden)
    write(tmp_path / "out/x.nii.gz", pred)
    found = scored(ssmtl, "--ignore-value", 255)
    assert list(found["classes"]) == ["1", "2"]
    assert found["mean"] == {"iou": 1, "dice": 1, "hd95": 0, "surface_dice": 1}


def test_a_prediction_of_not_annotated_is_refused(ssmtl, tmp_path):
    write(tmp_path / "labels/x.nii.gz", label_map())
    write(tmp_path / "out/x.nii.gz", np.where(label_map() == 2, 255, 1))
    done = ssmtl("evaluate", "--pred", "out", "--label", "labels", "--ignore-value", 255)
    assert done.returncode == 3
    assert "out/x.nii.gz: contains label values assigned to no class: 255 (60 voxels)" in done.stderr


# Wrong use


def refused(ssmtl, code, *words, options=(), pred="out", label="labels"):
    done = ssmtl("evaluate", "--pred", pred, "--label", label, *options)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("error: ") == 1
    for word in words:
        assert word in done.stderr


def test_missing_and_empty_folders_are_named_with_their_option(ssmtl, folders):
    (folders / "empty").mkdir()
    refused(ssmtl, 3, "nowhere: no such file or folder; check --pred", pred="nowhere")
    refused(ssmtl, 3, "nowhere: no such file or folder; check --label", label="nowhere")
    refused(ssmtl, 3, "empty: no readable scan in this folder", "--pred", pred="empty")
    (folders / "notes.txt").write_text("x")
    refused(ssmtl, 3, "notes.txt: is a document, and no scan", pred="notes.txt", label="labels/p0.nii.gz")


def test_folders_without_a_common_name_are_refused_with_names_of_both(ssmtl, folders):
    write(folders / "other/q.nii.gz", label_map())
    refused(ssmtl, 3, "no prediction below out has the name of a label below other", "p0, p1, p2", "q", label="other")


def test_two_files_of_one_name_are_refused(ssmtl, folders):
    write(folders / "out/p1.nii", label_map())
    refused(ssmtl, 3, "out/p1.nii", "out/p1.nii.gz", "keep one")


def test_wrong_options_are_refused(ssmtl, folders):
    for text in ("a=0", "a=1,a=2", "a=1,b=1", "LV"):
        refused(ssmtl, 2, "class" if text != "a=1,b=1" else "have the same label values", options=("--classes", text))
    refused(ssmtl, 2, "the value 1, which means not annotated", options=("--classes", "a=1", "--ignore-value", 1))
    for tolerance in ("-1", "nan", "inf"):
        refused(ssmtl, 2, "tolerance: ", f"got {float(tolerance)}", options=("--tolerance", tolerance))
    refused(ssmtl, 2, "out: is a folder", options=("--csv", "out"))
    done = ssmtl("evaluate", "--pred", "out")
    assert done.returncode == 2
    assert "--label" in done.stderr


def test_a_csv_that_cannot_be_written_is_named(ssmtl, folders):
    refused(ssmtl, 1, "out/p0.nii.gz/scores.csv: cannot be written", options=("--csv", "out/p0.nii.gz/scores.csv"))


def test_other_shapes_and_places_are_refused_and_places_can_be_ignored(ssmtl, folders):
    write(folders / "out/p1.nii.gz", label_map()[1:])
    refused(ssmtl, 3, "out/p1.nii.gz: has 11 x 10 x 6 voxels, its label has 12 x 10 x 6")
    elsewhere = AFFINE.copy()
    elsewhere[2, 3] = 2
    write(folders / "out/p1.nii.gz", moved(label_map(1)), elsewhere)
    refused(ssmtl, 3, "out/p1.nii.gz: ", "2 mm away from its label", "--ignore-affine")
    found = scored(ssmtl, "--ignore-affine")
    assert "2 mm away from its label" in found["notes"][0]
    assert found["classes"]["1"]["hd95"]["mean"] == pytest.approx(0.8)


def test_files_that_are_no_label_maps_are_named(ssmtl, folders):
    soft = label_map(1).astype(np.float32)
    soft[0, 0, :3] = (0.25, 0.5, 0.75)
    write(folders / "labels/p1.nii.gz", soft, dtype=np.float32)
    refused(ssmtl, 3, "labels/p1.nii.gz: 3 voxels of this label map are not whole numbers (0.25, 0.5, 0.75")
    soft[0, 0, :3] = np.nan
    write(folders / "labels/p1.nii.gz", soft, dtype=np.float32)
    refused(ssmtl, 3, "labels/p1.nii.gz: 3 voxels of this label map are NaN or infinite")


def test_values_of_no_class_are_refused_with_the_file_that_has_them(ssmtl, folders):
    refused(
        ssmtl,
        3,
        "labels/p0.nii.gz: contains label values assigned to no class: 2 (60 voxels)",
        options=("--classes", "a=1"),
    )
    odd = label_map(1)
    odd[0, 0, 0] = 7
    write(folders / "out/p1.nii.gz", odd)
    refused(ssmtl, 3, "out/p1.nii.gz: ", "7 (1 voxels)", options=("--classes", "a=1,b=2"))
    assert scored(ssmtl)["classes"]["7"]["hd95"]["penalised"] == 1


def test_a_damaged_file_is_refused_and_named(ssmtl, folders):
    file = folders / "out/p2.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    refused(ssmtl, 3, "out/p2.nii.gz: is damaged or cut short")


def test_nothing_but_background_needs_classes_by_name(ssmtl, tmp_path):
    write(tmp_path / "labels/x.nii.gz", 0 * label_map())
    write(tmp_path / "out/x.nii.gz", 0 * label_map())
    refused(ssmtl, 3, "nothing but background")
    found = scored(ssmtl, "--classes", "a=1")
    assert found["mean"] == {"iou": None, "dice": None, "hd95": None, "surface_dice": None}
    assert found["undefined_classes"] == 1


def test_without_monai_surface_scores_are_left_out_with_a_note_unless_asked_for(ssmtl, folders, monkeypatch):
    monkeypatch.setattr(scoring, "find_spec", lambda name: None)
    found = scored(ssmtl)
    assert not found["surface"]
    assert "pip install 'ssmtl-toolkit[metrics]'" in found["notes"][0]
    refused(ssmtl, 2, "--surface", "pip install 'ssmtl-toolkit[metrics]'", options=("--surface",))


# From Python, on real labels


def test_python_gives_the_same_and_the_same_errors(ssmtl, folders):
    result = evaluate("out", "labels", classes="a=1,b=2")
    assert result.summary == scored(ssmtl, "--classes", "a=1,b=2")
    assert evaluate(folders / "out", folders / "labels", EvaluateConfig(classes="a=1,b=2")).scans == result.scans
    with pytest.raises(UsageError, match="tolerance"):
        evaluate("out", "labels", tolerance=-1.0)
    with pytest.raises(DataError, match="no such file"):
        evaluate("out", "nowhere")
    with pytest.raises(UsageError, match="put them into one"):
        evaluate("out", "labels", EvaluateConfig(), classes="a=1")
    with pytest.raises(UsageError, match="did you mean 'classes'"):
        evaluate("out", "labels", clases="a=1")


def test_python_gets_scores_by_class_and_by_scan_and_what_json_prints(folders):
    write(folders / "labels" / "alone.nii.gz", label_map())
    result = evaluate(folders / "out", folders / "labels", classes="a=1,b=2", surface=False, tolerance=2)
    assert [scan.name for scan in result.scans] == ["p0", "p1", "p2"]
    assert result.classes["a"]["iou"] == pytest.approx(2 / 3)
    assert result.mean == {"iou": pytest.approx(2 / 3), "dice": pytest.approx(0.8)}
    assert result.scans[0].values["dice"] == pytest.approx((0.8, 0.8))
    assert (result.labels.names, result.surface, result.tolerance) == (("a", "b"), False, 2)
    assert (result.unpaired_predictions, result.unpaired_labels) == ((), ("alone",))
    assert result.notes == (
        "1 labels have no prediction and are not scored: alone",
        "--tolerance 2: has no effect, no surface Dice is computed",
    )
    assert list(result.summary) == [
        *("pred", "label", "class_values", "surface", "tolerance_mm", "metrics", "classes", "mean"),
        *("confusion", "undefined_classes", "scans", "rule", "unpaired", "notes"),
    ]


def test_options_may_stand_in_a_file_and_flags_win_over_it(ssmtl, folders):
    (folders / "how.toml").write_text('classes = "a=1,b=2"\nsurface = false\n')
    found = scored(ssmtl, "--config", "how.toml")
    assert (list(found["classes"]), found["surface"]) == (["a", "b"], False)
    assert list(scored(ssmtl, "--config", "how.toml", "--classes", "all=1+2")["classes"]) == ["all"]
    (folders / "how.toml").write_text("size = 3\n")
    refused(ssmtl, 2, "how.toml: no option 'size'", options=("--config", "how.toml"))


def test_real_labels_against_themselves_are_perfect(ssmtl, hippocampus, tmp_path):
    (tmp_path / "some").mkdir()
    for file in sorted((hippocampus / "labels").iterdir())[:10]:
        shutil.copy(file, tmp_path / "some")
    found = scored(ssmtl, "--classes", "anterior=1,posterior=2", pred="some", label="some")
    assert len(found["scans"]) == 10
    assert found["mean"] == {"iou": 1, "dice": 1, "hd95": 0, "surface_dice": 1}


@pytest.mark.parametrize("how", ["eroded", "shifted"])
def test_changed_real_labels_get_what_distance_maps_give(ssmtl, hippocampus, tmp_path, how):
    file = sorted((hippocampus / "labels").iterdir())[0]
    image = nib.load(file)
    label = np.asarray(image.dataobj).astype(np.uint8)
    spacing = (1.0, 1.5, 2.0)
    pred = np.zeros_like(label)
    for value in (1, 2):
        mask = label == value
        pred[binary_erosion(mask) if how == "eroded" else np.roll(mask, 1, axis=1)] = value
    write(tmp_path / "labels/x.nii.gz", label, np.diag([*spacing, 1.0]))
    write(tmp_path / "out/x.nii.gz", pred, np.diag([*spacing, 1.0]))
    found = scored(ssmtl, "--tolerance", 1.2)["scans"][0]["classes"]
    for value in (1, 2):
        ours, theirs = (a == value for a in (pred, label))
        edges = [mask & ~binary_erosion(mask) for mask in (ours, theirs)]
        there = distance_transform_edt(~edges[1], sampling=spacing)[edges[0]]
        back = distance_transform_edt(~edges[0], sampling=spacing)[edges[1]]
        near = (np.sum(there <= 1.2) + np.sum(back <= 1.2)) / (len(there) + len(back))
        one = found[str(value)]
        assert (one["iou"], one["dice"]) == pytest.approx(brute(pred, label, value))
        assert one["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-5)
        assert one["surface_dice"] == pytest.approx(near)
        assert 0 < one["surface_dice"] < 1


def test_scans_given_for_label_maps_are_named(folders, ssmtl):
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (12, 10, 6))
        write(folders / "images" / f"p{i}.nii.gz", noise)
        write(folders / "floats" / f"p{i}.nii.gz", noise + 0.3, dtype=np.float32)
    for pred, label, wrong in (
        ("images", "labels", "images/p0"),
        ("out", "images", "images/p0"),
        ("floats", "labels", "floats/p0"),
    ):
        for more in ((), ("--classes", "a=1,b=2")):
            done = ssmtl("evaluate", "--pred", pred, "--label", label, *more)
            assert done.returncode == 3
            assert f"{wrong}.nii.gz: looks like a scan, not a label map" in " ".join(done.stderr.split())


def test_labels_may_be_those_of_a_data_set_whose_scans_the_predictions_are_called_after(tmp_path, ssmtl):
    for i in range(2):
        write(tmp_path / f"kits/case_0000{i}/imaging.nii.gz", label_map(i) * 40)
        write(tmp_path / f"kits/case_0000{i}/segmentation.nii.gz", label_map(i))
        write(tmp_path / f"out/case_0000{i}/imaging.nii.gz", moved(label_map(i)))
    found = scored(ssmtl, "--no-surface", label="kits")
    assert list(found["classes"]) == ["kidney", "tumour"]
    ours, theirs = (np.concatenate([one(label_map(i)) for i in range(2)]) for one in (moved, np.asarray))
    assert found["classes"]["tumour"]["iou"] == pytest.approx(brute(ours, theirs, 2)[0])
    assert found["unpaired"] == {"predictions": 0, "labels": 0}


def test_masks_are_scored_by_the_names_of_their_structures(tmp_path, ssmtl):
    for name, value in (("liver", 2), ("aorta", 1)):
        write(tmp_path / f"set/s0000/segmentations/{name}.nii.gz", label_map() == value)
    write(tmp_path / "set/s0000/ct.nii.gz", label_map() * 40)
    write(tmp_path / "out/s0000/ct.nii.gz", 7 * (label_map() == 2))
    classes = {"classes": [{"name": "liver", "values": [7]}], "background": [], "ignore": None}
    (tmp_path / "out/prediction.json").write_text(json.dumps({"classes": classes}))
    found = scored(ssmtl, "--no-surface", label="set")
    assert {name: one["iou"] for name, one in found["classes"].items()} == {"liver": 1.0}


def test_overlays_show_truth_and_prediction_and_are_named_by_rank_the_worst_first(ssmtl, labelled, tmp_path):
    for name, shift in (("a_pre", 0), ("b_pre", 4)):
        label = nib.load(labelled / "labels" / f"{name}.nii.gz")
        moved = np.roll(np.asarray(label.dataobj), shift, axis=0)
        (tmp_path / "out").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(moved, label.affine), tmp_path / "out" / f"{name}.nii.gz")
    arguments = ["evaluate", "--pred", "out", "--label", labelled, "--no-surface", "--overlay", "pictures"]
    done = ssmtl(*arguments)
    assert done.returncode == 0, done.stderr
    names = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert names == ["001-b_pre.png", "002-a_pre.png"]
    pixels = [np.asarray(Image.open(tmp_path / "pictures" / name)).astype(int) for name in names]
    white = [(p.min(axis=2) > 250).sum() for p in pixels]  # lines of the truth
    assert min(white) > 500
    orange = [
        (abs(p - (230, 159, 0)).sum(axis=2) < 6).sum() for p in pixels
    ]  # those of the prediction, where it differs
    assert orange[0] > 10 * (orange[1] + 1)
    drawn = {name: (tmp_path / "pictures" / name).read_bytes() for name in names}
    done = ssmtl(*arguments, "--csv", "scores.csv")  # as after a kill between pictures and table
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores.csv").is_file()
    assert {file.name: file.read_bytes() for file in (tmp_path / "pictures").iterdir()} == drawn
    for name, content in (("001-b_pre.png", b"another"), ("notes.txt", b"notes"), ("003-a_pre.png", drawn[names[1]])):
        (tmp_path / "pictures" / name).write_bytes(content)
        done = ssmtl(*arguments)
        assert done.returncode in (1, 2)
        assert "pictures: " in done.stderr
        assert "empty; choose another folder" in done.stderr or "empty); choose another folder" in done.stderr
        assert (tmp_path / "pictures" / name).read_bytes() == content
        (tmp_path / "pictures" / name).unlink()
        (tmp_path / "pictures" / names[0]).write_bytes(drawn[names[0]])
