"""Scans whose channels are a file each: columns of a manifest, and channel=all of folders and dataset.json."""

import json
from pathlib import Path

import pytest

from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of

CASES = [f"{case}_000{k}.nii.gz" for case in ("c_1", "c_2") for k in (0, 1)]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(text):
    return list_scans(dataset_of(str(text)), Path("unused"))


def channels(text):
    return {s.name: ([path.name for path in s.paths], s.label and s.label.name) for s in listed(text) if not s.unfit}


def unfit(text):
    return [scan.unfit for scan in listed(text) if scan.unfit]


def both(case):
    return [f"{case}_0000.nii.gz", f"{case}_0001.nii.gz"]


def test_a_manifest_names_further_channels_in_further_columns(tmp_path):
    touch(tmp_path, "a/t1.nii", "a/t2.nii", "a/flair.nii", "b/t1.nii", "b/t2.nii", "b/flair.nii", "a/seg.nii")
    rows = ["image_2,image,label,image_3", "a/t2.nii,a/t1.nii,a/seg.nii,a/flair.nii", "b/t2.nii,b/t1.nii,,b/flair.nii"]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    expected = {
        name: (["t1.nii", "t2.nii", "flair.nii"], label) for name, label in (("a/t1", "seg.nii"), ("b/t1", None))
    }
    assert channels(tmp_path / "x.csv") == channels(f"manifest:{tmp_path / 'x.csv'}") == expected


def test_a_toml_manifest_may_name_all_channels_as_a_list(tmp_path):
    touch(tmp_path, "t1.nii", "t2.nii", "t3.nii")
    (tmp_path / "list.toml").write_text('[[scan]]\nimage = ["t1.nii", "t2.nii", "t3.nii"]\npatient = "p"\n')
    (tmp_path / "keys.toml").write_text(
        '[[scan]]\nimage = "t1.nii"\nimage_2 = "t2.nii"\nimage_3 = "t3.nii"\npatient = "p"'
    )
    first, second = listed(tmp_path / "list.toml"), listed(tmp_path / "keys.toml")
    assert first == second
    assert [path.name for path in first[0].paths] == ["t1.nii", "t2.nii", "t3.nii"]
    assert first[0].patient == "p"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("image,image_2\nt1.nii,\n", "line 2: names no image_2; give its path"),
        ("image,image_2\nt1.nii,t9.nii\n", r"line 2: the image .*t9\.nii "),
        ("image,image_2\nt1.nii,t1.nii\n", r"line 2: two of its images are .*t1\.nii"),
        ("image,image_2,label\nt1.nii,t2.nii,t2.nii\n", r"line 2: image and label are the same file, .*t2\.nii"),
        ("image,image_3\nt1.nii,t2.nii\n", "line 1: has image_3 but no image_2"),
        ("image,image_1\nt1.nii,t2.nii\n", "line 1: unknown column 'image_1'.*image_2, image_3 …"),
        ("image_2\nt2.nii\n", "line 1: has no column `image`"),
    ],
)
def test_wrong_channels_in_a_manifest_are_refused_with_their_line(tmp_path, rows, told):
    touch(tmp_path, "t1.nii", "t2.nii")
    (tmp_path / "x.csv").write_text(rows)
    with pytest.raises(DataError, match=told):
        listed(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('image = ["t1.nii", 5.5]', "scan 1: image 2 is 5.5; expected text"),
        ("image = []", "scan 1: names no image 1"),
        ('image = ["t1.nii"]\nimage_2 = "t2.nii"', "scan 1: image is a list, but there is also image_2; use one"),
    ],
)
def test_a_list_that_names_no_channels_is_refused(tmp_path, table, told):
    touch(tmp_path, "t1.nii", "t2.nii")
    (tmp_path / "x.toml").write_text(f"[[scan]]\n{table}\n")
    with pytest.raises(DataError, match=told):
        listed(tmp_path / "x.toml")


@pytest.mark.parametrize("folder", ["images", "imagesTr", ""])
def test_all_channels_of_a_case_are_one_scan(tmp_path, folder):
    touch(tmp_path / folder, *CASES)
    if folder:
        touch(tmp_path / folder.replace("images", "labels"), "c_1.nii.gz")
    label = "c_1.nii.gz" if folder else None
    assert channels(f"folder:{tmp_path},channel=all") == {"c_1": (both("c_1"), label), "c_2": (both("c_2"), None)}
    assert unfit(f"folder:{tmp_path},channel=all") == []


def test_the_patient_of_joined_channels_is_the_case_with_its_folder(tmp_path):
    touch(tmp_path, "a/c_0000.nii", "a/c_0001.nii", "b/c_0000.nii", "b/c_0001.nii")
    scans = listed(f"folder:{tmp_path},channel=all")
    assert [(scan.name, scan.patient) for scan in scans] == [("a/c", "a/c"), ("b/c", "b/c")]


@pytest.mark.parametrize("folder", ["images", ""])
def test_a_case_without_one_of_the_channels_is_skipped_with_the_reason(tmp_path, folder):
    touch(tmp_path / folder, *CASES, "c_3_0001.nii.gz", "other.nii.gz")
    if folder:
        touch(tmp_path / "labels", "c_1.nii.gz", "c_3.nii.gz")
    text = f"folder:{tmp_path},channel=all"
    assert set(channels(text)) == {"c_1", "c_2"}
    first, second = unfit(text)
    assert "c_3_0001.nii.gz: its case 'c_3' has no channel 0 (expected: 0, 1); add the file, or choose others" in first
    assert "other.nii.gz: its name does not end in a channel number" in second


def test_a_folder_without_numbers_has_no_channels(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    with pytest.raises(DataError, match=r"has no channels CASE_0000, CASE_0001 …"):
        listed(f"folder:{tmp_path},channel=all")


def say(root, **said):
    (root / "dataset.json").write_text(json.dumps(said))


def test_nnunet_v2_joins_the_channels_that_it_names(tmp_path):
    touch(tmp_path, *(f"imagesTr/{name}" for name in CASES), "labelsTr/c_1.nii.gz", "labelsTr/c_2.nii.gz")
    touch(
        tmp_path, *(f"imagesTs/{name}" for name in both("c_9")), "imagesTs/c_8_0000.nii.gz", "imagesTr/c_3_0001.nii.gz"
    )
    say(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "x": 1}, file_ending=".nii.gz")
    text = f"folder:{tmp_path},channel=all"
    labelled = {case: (both(case), f"{case}.nii.gz") for case in ("c_1", "c_2")}
    assert channels(text) == {**labelled, "c_9": (both("c_9"), None)}
    assert {scan.modality for scan in listed(text)} == {"T1+T2"}
    assert ["'c_3' has no channel 0" in reason or "'c_8' has no channel 1" in reason for reason in unfit(text)] == [
        True,
        True,
    ]


def test_nnunet_v1_and_lists_of_files_join_the_channels_too(tmp_path):
    touch(tmp_path, *(f"imagesTr/{name}" for name in CASES), "labelsTr/c_1.nii.gz", "imagesTs/c_9_0000.nii.gz")
    first = {"image": "imagesTr/c_1.nii.gz", "label": "labelsTr/c_1.nii.gz"}
    second = {"image": [f"imagesTr/{name}" for name in both("c_2")]}
    say(tmp_path, modality={"0": "T1", "1": "T2"}, training=[first, second], test=["imagesTs/c_9_0000.nii.gz"])
    expected = {"c_1": (both("c_1"), "c_1.nii.gz"), "c_2": (both("c_2"), None)}
    found = channels(f"folder:{tmp_path},channel=all")
    assert {name: found[name] for name in expected} == expected
    assert found["c_9_0000"] == (["c_9_0000.nii.gz"], None)  # one file may hold all channels


def test_a_list_of_files_that_is_short_of_a_channel_is_skipped(tmp_path):
    touch(tmp_path, *(f"imagesTr/c_{i}_000{k}.nii.gz" for i in (1, 2) for k in (0, 1, 2)))
    lists = [[f"imagesTr/c_{i}_000{k}.nii.gz" for k in range(number)] for i, number in ((1, 3), (2, 2))]
    say(tmp_path, modality={str(k): f"T{k}" for k in range(3)}, training=[{"image": images} for images in lists])
    assert [len(paths) for paths, _ in channels(f"folder:{tmp_path},channel=all").values()] == [3]
    assert "has no channel 2 (expected: 0, 1, 2)" in unfit(f"folder:{tmp_path},channel=all")[0]


@pytest.mark.parametrize("given", ["-1", "some", "1.5", "true"])
def test_a_channel_is_a_number_or_all(tmp_path, given):
    with pytest.raises(
        UsageError, match=r"folder: option 'channel': should be the number of a channel, from 0, or all"
    ):
        dataset_of(f"folder:{tmp_path},channel={given}")


def test_the_option_reads_back(tmp_path):
    for written, channel in (("0", 0), ("2", 2), ("all", "all")):
        spec = dataset_of(f"folder:{tmp_path},channel={written}")
        assert spec.channel == channel
        assert dataset_of(str(spec)) == spec
        assert dataset_of(spec.full()) == spec
