"""Labels in the cache: cut as slices are, with their own values, so that no other classes or files can be meant."""

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers.decodes import count_decodes
from helpers.small import write_pair
from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.files import Waiting
from ssmtl_toolkit.data.label_pieces import _coded, find_labels
from ssmtl_toolkit.data.labels import read_label, read_labels
from ssmtl_toolkit.data.prepare import Sliced
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import Scan

CLASSES = Classes.parse("a=10,b=20")
SLICING = Slicing(axis="axial", size=16)


@pytest.fixture
def scan(tmp_path):
    image = write_pair(tmp_path, "p", slices=6)
    return Scan(image, "p", "p", label=tmp_path / "labels" / "p.nii.gz")


@pytest.fixture
def reading(tmp_path):
    notes = []
    reading = Reading.of(installed_readers(), SLICING, tmp_path / "cache", Waiting(note=notes.append))
    return reading, notes


def found(scan, reading, classes=CLASSES, others="refuse"):
    piece = find_labels(scan, reading, ignore_affine=False)
    return piece.slices(piece.meant(classes, others))


def by_hand(scan, classes=CLASSES):
    """The same without a cache."""
    volume = installed_readers().read_scan(scan)
    label = read_label(scan, installed_readers(), volume, classes)
    index = read_labels(label, volume, classes, "x", axis="axial", annotated=scan.annotated).index
    return Sliced.of(volume, SLICING).labels(index)


def pieces(tmp_path):
    return sorted((tmp_path / "cache" / "labels").glob("*/*.safetensors"))


def test_what_is_cached_is_what_reading_gives(scan, reading):
    assert np.array_equal(found(scan, reading[0]), by_hand(scan))
    assert np.array_equal(found(scan, reading[0]), by_hand(scan))
    some = Scan(scan.path, "p", "p", label=scan.label, annotated=(1, 4))
    assert np.array_equal(found(some, reading[0]), by_hand(some))
    assert (by_hand(some)[[0, 2, 3, 5]] == IGNORE).all()


def test_other_classes_get_other_targets_and_nothing_is_decoded_for_them(scan, reading, tmp_path, monkeypatch):
    both = found(scan, reading[0])
    decodes = count_decodes(monkeypatch)
    other = Classes.parse("b=20,c=10+7", ignore=None)
    assert np.array_equal(found(scan, reading[0], other), np.array([0, 2, 1], np.uint8)[both])
    assert np.array_equal(found(scan, reading[0], Classes.parse("a=10", ignore=20)) == IGNORE, both == 2)
    assert not decodes
    with pytest.raises(DataError, match=r"labels/p\.nii\.gz: contains label values assigned to no class: 20 \(\d+ vox"):
        found(scan, reading[0], Classes.parse("a=10"))
    assert len(pieces(tmp_path)) == 1


def test_another_label_file_or_image_or_slicing_gets_another_piece(scan, reading, tmp_path):
    before = found(scan, reading[0])
    image = nib.load(scan.label)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), scan.label)
    assert not np.array_equal(found(scan, reading[0]), before)
    assert np.array_equal(found(scan, reading[0]), by_hand(scan))
    larger = Reading(reading[0].decoded, Slicing(axis="axial", size=24), tmp_path / "cache", reading[0].memo)
    assert found(scan, larger).shape == (6, 24, 24)
    by_levels = Reading(
        reading[0].decoded, Slicing(axis="axial", size=16, normalise="4/2"), tmp_path / "cache", larger.memo
    )
    found(scan, by_levels)
    assert len(pieces(tmp_path)) == 3  # how slices are normalised does not matter


@pytest.mark.parametrize("where", ["codes", "about"])
def test_damage_is_noticed_and_made_good_with_a_note(scan, reading, tmp_path, where):
    before = found(scan, reading[0])
    (file,) = pieces(tmp_path)
    data = bytearray(file.read_bytes())
    data[-40 if where == "codes" else data.index(b"values")] ^= 1
    file.write_bytes(bytes(data))
    assert np.array_equal(found(scan, reading[0]), before)
    (note,) = reading[1]
    assert "is damaged; the labels of p are made anew" in note


def test_labels_on_another_grid_are_refused_each_time(scan, reading):
    nib.save(nib.Nifti1Image(np.ones((32, 32, 5), np.uint8), nib.load(scan.path).affine), scan.label)
    for _ in range(2):
        with pytest.raises(DataError, match=r"labels/p\.nii\.gz: has 32 x 32 x 5 voxels, its image has 32 x 32 x 6"):
            found(scan, reading[0])


@given(arrays(np.int32, (3, 4, 2), elements=st.sampled_from([0, 1, -5, 255, 300, 2**31 - 1])))
def test_codes_are_places_of_the_values_with_the_background_first(labels):
    values, codes = _coded(labels)
    assert values[0] == 0
    assert np.array_equal(values[codes], labels)
    assert json.loads(json.dumps(values.tolist())) == [0, *sorted({*labels.ravel().tolist()} - {0})]
