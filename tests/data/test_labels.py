"""Label maps: what the text of classes means, values to indices and back, what is no label map or not on the grid."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtl_toolkit.data.classes import IGNORE, Classes, LabelClass
from ssmtl_toolkit.data.grid import check_grid
from ssmtl_toolkit.data.labels import label_values, read_labels
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.errors import DataError, UsageError

KNOWN = {"LV": (500,), "RV": (600,), "LA": (420, 421), "Myo": (205,)}


def volume(array, affine=None, replaced=0):
    affine = np.eye(4) if affine is None else np.asarray(affine, float)
    spacing = tuple(float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(np.asarray(array), affine, spacing, replaced=replaced)


def line(*values, dtype=np.int32):
    return np.array(values, dtype).reshape(1, 1, -1)


# The text of classes


def test_values_are_named_and_several_values_can_be_one_class():
    classes = Classes.parse("LV=500, RV=600,LA=420+421")
    assert classes.classes == (LabelClass("LV", (500,)), LabelClass("RV", (600,)), LabelClass("LA", (420, 421)))
    assert classes.names == ("LV", "RV", "LA")
    assert len(classes) == 3


def test_known_classes_are_chosen_renamed_and_merged_and_the_others_become_background():
    assert Classes.parse("LV,LA", KNOWN) == Classes(
        (LabelClass("LV", (500,)), LabelClass("LA", (420, 421))), background=(205, 600)
    )
    assert Classes.parse("ventricle=LV", KNOWN).classes == (LabelClass("ventricle", (500,)),)
    assert Classes.parse("ventricles=RV+LV,rest=205", KNOWN).classes[0] == LabelClass("ventricles", (600, 500))
    assert Classes.parse("ventricles=LV+RV", KNOWN).background == (205, 420, 421)


def test_an_empty_text_chooses_all_known_classes_but_the_one_that_is_not_annotated():
    assert Classes.parse("", KNOWN).names == ("LV", "RV", "LA", "Myo")
    assert Classes.parse("", KNOWN, ignore=205) == Classes(
        tuple(LabelClass(name, KNOWN[name]) for name in ("LV", "RV", "LA")), ignore=205
    )


def test_a_number_alone_is_a_class_of_that_name():
    assert Classes.parse("1,2") == Classes.of_values([2, 1, 0, 1])
    assert Classes.parse("LV,205", KNOWN).classes[1] == LabelClass("205", (205,))


def test_values_that_files_hold_become_classes_without_background_and_ignore():
    assert Classes.of_values(np.array([255, 3, 0, 1]), ignore=255) == Classes(
        (LabelClass("1", (1,)), LabelClass("3", (3,))), ignore=255
    )


@pytest.mark.parametrize(
    ("text", "ignore", "said"),
    [
        ("LVV", None, "did you mean 'LV'?"),
        ("lv", None, "did you mean 'LV'?"),
        ("x=Myoc", None, "no class 'Myoc'; did you mean 'Myo'?"),
        ("x=LV+what", None, "known: LV=500, RV=600, LA=420+421, Myo=205"),
        ("LV=500,LV=600", None, "class 'LV' is given 2 times"),
        ("a=500,b=500", None, "classes 'a' and 'b' have the same label values"),
        ("a=1+2,b=2+1", None, "classes 'a' and 'b' have the same label values"),
        ("a=LA+420", None, "has the label value 420 twice"),
        ("a=0", None, "the value 0, which is the background"),
        ("a=7", 7, "the value 7, which means not annotated"),
        ("=5", None, "no name"),
        ("a=", None, "no class ''"),
        ("a=5+", None, "no class ''"),
        ("a=99999999999", None, "does not fit into 32 bits"),
        ("a=1", 99999999999, "does not fit into 32 bits"),
        (",".join(str(i) for i in range(1, 256)), None, "255 classes are more than the 254 possible"),
    ],
)
def test_what_cannot_be_a_class_is_refused(text, ignore, said):
    with pytest.raises(UsageError) as refused:
        Classes.parse(text, KNOWN, ignore)
    assert said in str(refused.value)


def test_names_mean_nothing_where_the_dataset_does_not_know_any():
    with pytest.raises(UsageError, match="'LV' is no label value; write name=value, as in LV=500"):
        Classes.parse("LV")
    with pytest.raises(UsageError, match="no class is named"):
        Classes.parse(" , ")


names = st.text("abcdefgh_ XYZ0123", min_size=1, max_size=8).map(str.strip).filter(bool)
values = st.integers(-(2**31), 2**31 - 1).filter(bool) | st.integers(1, 300)


@st.composite
def some_classes(draw):
    all_values = draw(st.lists(values, min_size=1, max_size=12, unique=True))
    all_names = draw(st.lists(names, min_size=len(all_values), max_size=len(all_values), unique=True))
    cuts = sorted(draw(st.sets(st.integers(1, len(all_values))))) or [len(all_values)]
    groups = [tuple(all_values[a:b]) for a, b in zip([0, *cuts], cuts, strict=False)]
    rest = all_values[cuts[-1] :]
    ignore = rest.pop() if rest and draw(st.booleans()) else None
    return Classes(
        tuple(LabelClass(name, group) for name, group in zip(all_names, groups, strict=False)),
        tuple(sorted(rest)),
        ignore,
    )


@given(some_classes())
def test_the_text_and_the_json_of_classes_read_back_to_equal_classes(classes):
    known = {f"unchosen,{value}": (value,) for value in classes.background}
    assert Classes.parse(str(classes), known, classes.ignore) == classes
    assert Classes.from_json(classes.to_json()) == classes


@given(some_classes(), st.data())
def test_indices_written_as_values_read_back_to_the_same_indices(classes, data):
    possible = [*range(len(classes) + 1), *([IGNORE] if classes.ignore is not None else [])]
    index = np.array(data.draw(st.lists(st.sampled_from(possible), min_size=6, max_size=6)), np.uint8).reshape(1, 2, 3)
    written = classes.to_values(index)
    again, unknown = classes.to_index(written, "x")
    assert again.dtype == np.uint8
    assert np.array_equal(again, index)
    assert unknown == ()


@given(some_classes())
def test_every_value_of_a_class_has_its_index(classes):
    for i, one in enumerate(classes.classes, 1):
        index, _ = classes.to_index(line(*one.values), "x")
        assert (index == i).all()
    rest, _ = classes.to_index(line(0, *classes.background), "x")
    assert not rest.any()


def test_metadata_that_holds_no_classes_is_refused_by_name():
    for damaged in ({}, None, {"classes": [{"name": "a"}]}, {"classes": [{"name": "a", "values": [0]}]}):
        content = {"background": [], "ignore": None, **damaged} if damaged else damaged
        with pytest.raises(DataError, match=r"model\.json: its classes cannot be read"):
            Classes.from_json(content, r"model.json")


# Values and indices


def test_unknown_values_are_refused_with_their_voxels_or_taken_as_background_and_returned():
    classes = Classes.parse("LV=500", {}, ignore=-1)
    values = line(0, 500, 421, 421, 7, -1)
    with pytest.raises(DataError) as refused:
        classes.to_index(values, "a.nii")
    said = str(refused.value)
    assert said.startswith("a.nii: contains label values assigned to no class: 7 (1 voxels), 421 (2 voxels)")
    assert "LV=500" in said
    assert "--classes" in said
    assert "--ignore-value" in said
    index, unknown = classes.to_index(values, "a.nii", "background")
    assert index.ravel().tolist() == [0, 1, 0, 0, 0, IGNORE]
    assert unknown == (7, 421)


def test_only_the_first_few_unknown_values_are_listed():
    with pytest.raises(DataError, match=r"5 \(1 voxels\), … and 195 more"):
        Classes.of_values([1000]).to_index(line(*range(1, 201)), "x")


@pytest.mark.parametrize(
    ("text", "dtype"), [("a=1,b=255+700", "uint8"), ("a=1,b=700", "uint16"), ("a=65536", "int32"), ("a=-1", "int32")]
)
def test_the_smallest_type_that_holds_the_written_values_is_chosen(text, dtype):
    classes = Classes.parse(text)
    values = classes.to_values(np.array([[[0, 1, len(classes)]]], np.uint8))
    assert values.dtype == dtype
    assert values.ravel().tolist() == [0, classes.classes[0].values[0], classes.classes[-1].values[0]]


def test_an_index_without_a_value_is_not_written():
    with pytest.raises(ValueError, match="no ignore value"):
        Classes.parse("a=1").to_values(np.array([[[IGNORE]]], np.uint8))
    with pytest.raises(ValueError, match="index 2 is no class"):
        Classes.parse("a=1").to_values(np.array([[[2]]], np.uint8))


# Label volumes


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_labels(dtype):
    found = label_values(volume(line(0, 1, 100, dtype=dtype)), "x")
    assert found.dtype == np.int32
    assert found.ravel().tolist() == [0, 1, 100]


def test_values_that_scaling_moved_by_less_than_a_thousandth_are_labels():
    assert label_values(volume(line(0.9995, 2.0004, -0.0002, dtype=np.float32)), "x").ravel().tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (volume(line(0, 0.5, 1.25, dtype=np.float32)), r"2 voxels .* not whole numbers \(0.5, 1.25, …\).*interpolated"),
        (volume(line(0, 1, 2), replaced=4), "4 voxels of this label map are NaN or infinite"),
        (volume(line(0, np.nan, np.inf, dtype=np.float32)), "2 voxels of this label map are NaN or infinite"),
        (volume(line(0, 3e9, dtype=np.float32)), r"go from 0 to 3e\+09, too large for labels"),
        (volume(line(0, 2**40, dtype=np.int64)), "too large for labels"),
    ],
)
def test_what_is_no_label_map_is_refused_by_name(label, said):
    with pytest.raises(DataError, match=f"a.nii: .*{said}"):
        label_values(label, "a.nii")


def shifted(mm, axis=0):
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[axis, 3] = mm
    return affine


def test_equal_grids_need_no_word():
    image = volume(np.zeros((4, 5, 6)), shifted(0))
    assert check_grid(image, volume(np.zeros((4, 5, 6)), shifted(0.0009)), "x") is None


def test_other_shapes_are_refused_with_both():
    image = volume(np.zeros((4, 5, 6)))
    for ignore_affine in (False, True):
        with pytest.raises(DataError, match=r"a.nii: has 4 x 6 x 5 voxels, its image has 4 x 5 x 6"):
            check_grid(image, volume(np.zeros((4, 6, 5))), "a.nii", ignore_affine)


def test_a_small_shift_is_noted_and_one_of_more_than_a_tenth_of_the_smallest_voxel_is_refused():
    image = volume(np.zeros((4, 5, 6)), shifted(0))
    assert "up to 0.19 mm away from its image" in check_grid(image, volume(image.array, shifted(0.19, axis=2)), "x")
    moved = volume(image.array, shifted(0.21, axis=2))
    with pytest.raises(DataError, match=r"a.nii: .*0.21 mm away from its image \(voxels are 2 x 2 x 5 mm\).*--ignore-"):
        check_grid(image, moved, "a.nii")
    assert "0.21 mm" in check_grid(image, moved, "a.nii", ignore_affine=True)


def test_a_flip_is_found_at_the_corners_although_the_shapes_agree():
    flipped = np.diag([-2.0, 2.0, 5.0, 1.0])
    flipped[0, 3] = 6.0  # the same box in space
    with pytest.raises(DataError, match="6 mm away from its label"):
        check_grid(
            volume(np.zeros((4, 5, 6)), shifted(0)), volume(np.zeros((4, 5, 6)), flipped), "x", reference="its label"
        )


# A label map with its scan


def oriented(codes):
    """An affine of 1 mm voxels for file axes that run to these letters."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = np.array([directions[code] for code in codes]).T
    assert "".join(nib.aff2axcodes(affine)) == codes
    return affine


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SRA"])
def test_slices_that_nobody_annotated_are_ignored_along_the_axis_of_the_cut(codes, axis):
    affine, shape = oriented(codes), (3, 4, 5)
    image = volume(np.ones(shape), affine)
    place = np.indices(shape)
    # the axis of the file that is constant in every slice of the cut, found by cutting the indices themselves
    cut = next(a for a in range(3) if all(np.ptp(s) == 0 for s in Stack.of(volume(place[a], affine), axis).slices))
    labels = read_labels(
        volume(np.ones(shape, np.uint8), affine), image, Classes.parse("a=1"), "x", axis=axis, annotated=(0, 2)
    )
    expected = np.where(np.isin(place[cut], (0, 2)), 1, IGNORE)
    assert np.array_equal(labels.index, expected)
    assert labels.index.dtype == np.uint8


def test_annotated_slices_outside_of_the_scan_are_refused():
    scan = volume(np.ones((3, 4, 5)))
    for wrong in (5, -1):
        with pytest.raises(DataError, match=rf"a.nii: slice {wrong} .* has 5 slices \(0 to 4\)"):
            read_labels(scan, scan, Classes.parse("a=1"), "a.nii", axis="axial", annotated=(0, wrong))


def test_what_is_odd_about_labels_is_noted():
    scan = volume(np.ones((1, 1, 3)))
    label = Volume(line(0, 9, 8), shifted(0.05), (1.0, 1.0, 1.0), notes=("is gzip under another name",))
    labels = read_labels(
        label, volume(scan.array, shifted(0)), Classes.parse("a=1"), "x", axis="axial", others="background"
    )
    assert not labels.index.any()
    assert labels.notes[0] == "is gzip under another name"
    assert "0.05 mm" in labels.notes[1]
    assert labels.notes[2] == "label values assigned to no class count as background: 8, 9"
    assert labels.notes[3] == "has no voxel of any class"


def test_the_value_for_not_annotated_becomes_the_ignored_index():
    label = volume(line(0, 1, 255))
    labels = read_labels(label, label, Classes.parse("a=1", ignore=255), "x", axis="axial")
    assert labels.index.ravel().tolist() == [0, 1, IGNORE]
    assert labels.notes == ()
