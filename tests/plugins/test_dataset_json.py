"""dataset.json as nnU-Net v1 and v2, MONAI and AMOS write it, and what one from anywhere must not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.small import write_scan
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def say(root: Path, **said: Any) -> None:
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(said))


def listed(given: Path | str) -> list[Scan]:
    return list_scans(dataset_of(str(given)), Path("unused"))


def pairs(given: Path | str) -> list[tuple[str, str, str | None]]:
    return [(s.name, s.path.name, s.label.name if s.label else None) for s in listed(given) if not s.unfit]


def item(name: str, part: str = "Tr") -> dict[str, str]:
    return {"image": f"./images{part}/{name}.nii.gz", "label": f"./labels{part}/{name}.nii.gz"}


V2: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "x": 1},
    "file_ending": ".nii.gz",
}


@pytest.mark.parametrize("more", [{}, V2], ids=["v1", "v2 with the list of v1"])
def test_nnunet_v1_lists_cases_and_its_files_have_channels(tmp_path, more):
    touch(tmp_path, *(f"imagesTr/c_{i}_000{k}.nii.gz" for i in (1, 2) for k in (0, 1)))
    touch(tmp_path, "labelsTr/c_1.nii.gz", "labelsTr/c_2.nii.gz", "imagesTs/c_9_0000.nii.gz")
    modality = {"0": "T1", "1": "T2"}
    say(tmp_path, modality=modality, training=[item("c_1"), item("c_2")], test=["./imagesTs/c_9.nii.gz"], **more)
    expected = [("c_1", "c_1_0000.nii.gz", "c_1.nii.gz"), ("c_2", "c_2_0000.nii.gz", "c_2.nii.gz")]
    assert pairs(tmp_path) == [*expected, ("c_9", "c_9_0000.nii.gz", None)]
    second = [scan for scan in listed(f"folder:{tmp_path},channel=1") if not scan.unfit]
    assert [(scan.path.name, scan.modality) for scan in second] == [
        ("c_1_0001.nii.gz", "T2"),
        ("c_2_0001.nii.gz", "T2"),
    ]


def test_the_table_of_nnunet_v2_names_cases_channels_and_labels(tmp_path):
    touch(
        tmp_path,
        *(f"raw/p{i}/{name}.nii.gz" for i in (1, 2) for name in ("t1", "t2", "organ")),
        "imagesTs/q_0000.nii.gz",
    )
    cases = {
        f"p{i}": {"images": [f"raw/p{i}/t1.nii.gz", f"raw/p{i}/t2.nii.gz"], "label": f"raw/p{i}/organ.nii.gz"}
        for i in (1, 2)
    }
    say(tmp_path, dataset=cases, **V2)
    expected = [("p1", "t1.nii.gz", "organ.nii.gz"), ("p2", "t1.nii.gz", "organ.nii.gz"), ("q", "q_0000.nii.gz", None)]
    assert pairs(tmp_path) == expected
    assert [path for _, path, _ in pairs(f"folder:{tmp_path},channel=1")] == ["t2.nii.gz", "t2.nii.gz"]


@pytest.mark.parametrize("part", ["validation", "val", "validation_0", "testing", "fold_b"])
def test_no_list_of_images_and_labels_is_dropped(tmp_path, part):
    touch(tmp_path, *(f"{kind}{place}/{place}.nii.gz" for kind in ("images", "labels") for place in ("Tr", "Va")))
    say(tmp_path, training=[item("Tr")], test=[], **{part: [item("Va", "Va")]})
    assert pairs(tmp_path) == [("Tr", "Tr.nii.gz", "Tr.nii.gz"), ("Va", "Va.nii.gz", "Va.nii.gz")]


def test_a_list_without_training_is_read_too_and_one_that_is_not_understood_is_named(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    say(tmp_path, train_0=[item("a")], val=[{"img": "imagesTr/b.nii.gz"}], keywords=["liver"], sites=[{"name": "x"}])
    assert pairs(tmp_path) == [("a", "a.nii.gz", "a.nii.gz")]
    (said,) = [scan.unfit for scan in listed(tmp_path) if scan.unfit]
    assert "dataset.json: cannot read {'img': 'imagesTr/b.nii.gz'} in its `val`; expected an image and a label" in said


def test_a_scan_in_two_lists_is_one_scan_and_scans_of_one_file_name_are_called_by_their_paths(tmp_path):
    touch(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p1/l.nii.gz", "p2/l.nii.gz")
    items = [{"image": f"p{i}/ct.nii.gz", "label": f"p{i}/l.nii.gz", "fold": i} for i in (1, 2)]
    say(tmp_path, training=items, validation=items[1:], test=["p1/ct.nii.gz"])
    assert [(scan.name, scan.label) for scan in listed(tmp_path)] == [
        ("p1/ct", tmp_path / "p1/l.nii.gz"),
        ("p2/ct", tmp_path / "p2/l.nii.gz"),
    ]


def test_of_the_images_of_a_case_the_channel_is_taken(tmp_path):
    touch(tmp_path, "a_flair.nii.gz", "a_t1.nii.gz", "a_seg.nii.gz")
    say(tmp_path, training=[{"image": ["a_flair.nii.gz", "a_t1.nii.gz"], "label": "a_seg.nii.gz"}])
    assert pairs(tmp_path) == [("a_flair", "a_flair.nii.gz", "a_seg.nii.gz")]
    assert pairs(f"folder:{tmp_path},channel=1") == [("a_t1", "a_t1.nii.gz", "a_seg.nii.gz")]


@pytest.mark.parametrize(
    "text",
    [
        "../secret.nii.gz",
        "imagesTr/../../secret.nii.gz",
        "{}/secret.nii.gz",
        "imagesTr/link.nii.gz",
        "/etc/passwd",
        "/",
    ],
)
@pytest.mark.parametrize("what", ["image", "label"])
def test_a_dataset_json_that_leads_out_of_its_folder_is_not_followed(tmp_path, text, what):
    root = tmp_path / "set"
    touch(tmp_path, "secret.nii.gz", "set/imagesTr/a.nii.gz", "set/labelsTr/a.nii.gz")
    (root / "imagesTr" / "link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    bad = {**item("a"), what: text.format(tmp_path)}
    for said in ({"training": [bad]}, {"dataset": {"c": {"images": [bad["image"]], "label": bad["label"]}}, **V2}):
        say(root, **said)
        with pytest.raises(DataError, match=r"set/dataset\.json: '.*' leads out of this folder; copy the file into it"):
            listed(root)
    say(root, training=[item("a"), bad])
    assert [scan.path.name for scan in listed(root) if not scan.unfit] == ["a.nii.gz"]
    assert [scan.label for scan in listed(root) if scan.unfit] == [None]


def test_links_within_the_folder_absolute_paths_into_it_and_links_of_a_plain_folder_are_followed(tmp_path, monkeypatch):
    root = tmp_path / "set"
    touch(tmp_path, "set/.git/annex/a.nii.gz", "set/imagesTr/b.nii.gz", "elsewhere/c.nii.gz", "elsewhere/d_0000.nii.gz")
    (root / "imagesTr" / "a.nii.gz").symlink_to("../.git/annex/a.nii.gz")
    (tmp_path / "linked").symlink_to(root)
    images = ["imagesTr/../imagesTr/a.nii.gz", f"{tmp_path}/linked/imagesTr/b.nii.gz"]
    say(root, training=[{"image": image} for image in images])
    assert [name for name, _, _ in pairs(tmp_path / "linked")] == ["a", "b"]
    monkeypatch.chdir(root)
    say(root, training=[{"image": images[0]}, {"image": f"{root}/imagesTr/b.nii.gz"}])
    assert [name for name, _, _ in pairs(".")] == ["a", "b"]
    say(root, **V2)
    (root / "imagesTr" / "d_0000.nii.gz").symlink_to(tmp_path / "elsewhere" / "d_0000.nii.gz")
    assert [name for name, _, _ in pairs(root)] == ["d"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "c.nii.gz").symlink_to(tmp_path / "elsewhere" / "c.nii.gz")
    assert [name for name, _, _ in pairs(tmp_path / "plain")] == ["c"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100000, "is nested too deeply"),
        ('{"training": ' + "9" * 5000 + "}", "cannot be read as JSON"),
        ('{"training": [{"image": "' + "a" * 300 + '.nii.gz"}]}', "is not a valid path"),
        ('{"training": [{"image": "a\\u0000.nii.gz"}]}', r"a\\x00\.nii\.gz: is listed in"),
        ('{"training": [{"image": "."}]}', "does not exist"),
        ('{"training": [{"image": "~nosuchuser/x.nii"}]}', "does not exist"),
        ('{"training": [{"image": "\\u001b[31mx.nii"}]}', r"\\x1b\[31mx.nii: is listed"),
    ],
)
def test_an_odd_dataset_json_is_refused_in_one_line(tmp_path, ssmtl, text, said):
    root = tmp_path / "set"
    write_scan(root / "imagesTr" / "a.nii.gz")
    (root / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        listed(root)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.csv", "image\n/\n", "line 2: the image / is not a scan"),
        ("m.csv", "image\n~nosuchuser/x.nii\n", "line 2: the image '~nosuchuser/x.nii' is not a valid path"),
        ("m.csv", f"image\n{'a' * 300}\n", "is too long for a path"),
        ("m.csv", "image,label\na.nii.gz,~nosuchuser/x\n", "line 2: the label '~nosuchuser/x' is not a valid path"),
        ("m.toml", '[[scan]]\nimage = "a\\u0000"', r"scan 1: the image .*holds a null character"),
        ("m.toml", "a = " + "[" * 3000, "is nested too deeply"),
        ("m.toml", "a = " + "9" * 5000, "cannot be read as TOML"),
    ],
)
def test_an_odd_manifest_is_refused_in_one_line(tmp_path, name, text, said):
    touch(tmp_path, "a.nii.gz")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        listed(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_manifest_may_name_the_folder_that_it_lies_in(tmp_path):
    folder = tmp_path / "p1"
    touch(folder, "a.nii.gz")
    (folder / "m.csv").write_text("image\n.\n")
    assert [scan.name for scan in listed(folder / "m.csv")] == ["p1"]
