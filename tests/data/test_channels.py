"""Scans of several channels: read from a file each, checked, cut, prepared and stored, each channel by itself."""

import nibabel as nib
import numpy as np
import pytest
import torch

from helpers.small import blobs, write_channels, write_scan
from helpers.stores import OPTIONS
from ssmtl_nifti import Nifti
from ssmtl_toolkit.data import memory
from ssmtl_toolkit.data import store as storing
from ssmtl_toolkit.data.labelmap import looks_like_labels
from ssmtl_toolkit.data.labels import label_values
from ssmtl_toolkit.data.on_disk import OnDisk
from ssmtl_toolkit.data.prepare import prepare
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import Scan

AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


def scan_of(files, name="case"):
    return Scan(files[0], name, name, more=tuple(files[1:]))


def build(scans, cache, slicing=OPTIONS, **options):
    return build_store(scans, installed_readers(), slicing, cache, **options)


def write(file, array, affine=AFFINE, zooms=None):
    image = nib.Nifti1Image(array, affine)
    if zooms:
        image.header.set_zooms(zooms)
    nib.save(image, file)
    return file


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_store_holds_each_channel_as_numpy_prepares_it(tmp_path, channels):
    cases = [write_channels(tmp_path, name, slices, slices, channels) for name, slices in (("a", 5), ("b", 7))]
    store = build([scan_of(files, str(len(files))) for files in cases], tmp_path / "cache", Slicing(size=24))
    expected = []
    for files in cases:
        voxels = np.stack([np.asanyarray(nib.load(file).dataobj).astype(np.float64) for file in files])
        for k in range(voxels.shape[3]):
            pixels = voxels[:, ::-1, ::-1, k].transpose(0, 2, 1)  # right and front in the file: rows to the back
            normal = (pixels - pixels.mean((1, 2), keepdims=True)) / pixels.std((1, 2), keepdims=True)
            expected.append(normal.astype(np.float32).astype(np.float16))
    assert store.channels == channels
    assert np.array_equal(store.slices.numpy(), np.stack(expected))


def test_each_channel_is_to_the_bit_what_its_file_alone_gives(tmp_path):
    files = write_channels(tmp_path, "a", channels=3)
    slicing = Slicing(size=17, axis="coronal", window=(-100, 700))
    together = build([scan_of(files)], tmp_path / "cache", slicing).slices
    for channel, file in enumerate(files):
        assert torch.equal(together[:, [channel]], build([scan_of([file])], tmp_path / "cache", slicing).slices)


def test_ram_disk_and_batches_hold_all_channels(tmp_path):
    scans = [scan_of(write_channels(tmp_path, name, seed=seed), name) for seed, name in enumerate("ab")]
    ram, disk = (build(scans, tmp_path / "cache", placement=placement) for placement in ("ram", "disk"))
    assert ram.slices.shape == (24, 2, 16, 16)
    assert torch.equal(ram.slices, disk.slices[:])
    rows = torch.tensor([20, 3, 3])
    assert torch.equal(disk.gather(rows, torch.device("cpu")), ram.slices[rows].float())


def test_a_change_in_any_file_of_a_scan_is_noticed_and_so_is_another_order(tmp_path):
    files = write_channels(tmp_path, "a")
    first = build([scan_of(files)], tmp_path / "cache")
    swapped = build([scan_of(files[::-1])], tmp_path / "cache")
    write(files[1], blobs(12, 24, 24, seed=9))
    changed = build([scan_of(files)], tmp_path / "cache")
    assert torch.equal(swapped.slices, first.slices.flip(1))
    assert torch.equal(changed.slices[:, 0], first.slices[:, 0])
    assert not torch.equal(changed.slices[:, 1], first.slices[:, 1])
    assert len({store.fingerprint for store in (first, swapped, changed)}) == 3


def test_copies_are_scans_all_of_whose_files_are_the_same(tmp_path):
    files, others = write_channels(tmp_path, "a"), write_channels(tmp_path, "b", seed=5)
    half = scan_of([files[0], others[1]], "half")
    store = build([scan_of(files, "a"), half, scan_of(files, "again")], tmp_path / "cache")
    assert [stored.scan.name for stored in store.scans] == ["a", "half"]
    assert [skipped.name for skipped in store.skipped] == ["again"]


def test_a_damaged_piece_of_several_channels_is_made_anew(tmp_path):
    scan = scan_of(write_channels(tmp_path, "a"))
    first = build([scan], tmp_path / "cache")
    (piece,) = (tmp_path / "cache" / "slices").glob("*/*.safetensors")
    content = bytearray(piece.read_bytes())
    content[-1] ^= 1
    piece.write_bytes(content)
    assert torch.equal(build([scan], tmp_path / "cache").slices, first.slices)


def test_scans_of_different_numbers_of_channels_are_refused_by_name(tmp_path):
    scans = [scan_of(write_channels(tmp_path, "a"), "a"), scan_of([write_scan(tmp_path / "b.nii.gz")], "b")]
    with pytest.raises(DataError, match=r"b\.nii\.gz: has 1 channel, .*a_0000\.nii\.gz has 2; all scans"):
        build(scans, tmp_path / "cache")


def moved(by):
    affine = AFFINE.copy()
    affine[:3, 3] += by
    return affine


@pytest.mark.parametrize(
    ("array", "affine", "zooms", "told"),
    [
        (blobs(11, 24, 24), AFFINE, None, "has 24 x 24 x 11 voxels, {first} has 24 x 24 x 12"),
        (blobs(12, 24, 24), moved((0, 0, 0.5)), None, "by the affines it lies up to 0.5 mm away from {first}"),
        (blobs(12, 24, 24), AFFINE, (0.8, 0.8, 3.0), "has voxels of 0.8 x 0.8 x 3 mm, {first} has 0.8 x 0.8 x 2 mm"),
    ],
)
def test_channels_on_different_grids_are_refused_naming_both_files(tmp_path, array, affine, zooms, told):
    first = write(tmp_path / "t1.nii.gz", blobs(12, 24, 24))
    image = nib.Nifti1Image(array, affine)
    if zooms:
        image.header.set_zooms(zooms)
        image.header.set_sform(affine, 1)
        image.header.set_qform(None, 0)
    nib.save(image, tmp_path / "t2.nii.gz")
    with pytest.raises(DataError) as error:
        installed_readers().read_scan(scan_of([first, tmp_path / "t2.nii.gz"]))
    assert str(error.value).startswith(f"{tmp_path / 't2.nii.gz'}: {told.format(first=first)}; the channels of a scan")


def test_a_channel_that_lies_a_hundredth_of_a_voxel_away_is_taken_with_a_note(tmp_path):
    first = write(tmp_path / "t1.nii.gz", blobs(12, 24, 24))
    other = write(tmp_path / "t2.nii.gz", blobs(12, 24, 24, 3), moved((0, 0, 0.02)))
    (note,) = installed_readers().read_scan(scan_of([first, other])).notes
    assert note == f"t2.nii.gz: by the affines it lies up to 0.02 mm away from {first}"


def test_a_channel_that_is_stored_in_another_order_is_turned_not_resampled(tmp_path):
    first, second = write_channels(tmp_path, "a")
    straight = installed_readers().read_scan(scan_of([first, second])).array
    image = nib.load(second)
    turn = nib.orientations.axcodes2ornt("SPL")
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), turn)), second)
    assert Nifti().read(second).array.shape == (12, 24, 24)
    assert np.array_equal(installed_readers().read_scan(scan_of([first, second])).array, straight)


def test_channels_of_different_types_keep_their_values(tmp_path):
    whole = np.full((4, 5, 6), 30000, np.int16)
    half = np.full((4, 5, 6), 0.25, np.float32)
    files = [write(tmp_path / f"{i}.nii", array) for i, array in enumerate((whole, half))]
    volume = installed_readers().read_scan(scan_of(files))
    assert volume.shape == (4, 5, 6)
    assert volume.channels == 2
    assert np.array_equal(volume.array[..., 0], whole)
    assert np.array_equal(volume.array[..., 1], half)


def test_what_would_not_fit_into_memory_with_all_its_channels_is_refused(tmp_path, monkeypatch):
    files = write_channels(tmp_path, "a")
    monkeypatch.setattr(memory, "whole_memory", lambda: 3 * 24 * 24 * 12 * 4)
    installed_readers().read_scan(scan_of(files[:1]))
    with pytest.raises(DataError, match=r"a_0000\.nii\.gz: needs .* GiB of memory"):
        installed_readers().read_scan(scan_of(files))


def test_the_store_stays_on_disk_where_its_channels_do_not_fit_together(tmp_path, monkeypatch):
    files = write_channels(tmp_path, "a")
    one = 2 * 12 * 16 * 16
    monkeypatch.setattr(storing, "free_memory", lambda: 3 * one)  # half of it may be taken: room for one channel
    assert isinstance(build([scan_of(files[:1])], tmp_path / "small").slices, torch.Tensor)
    large = build([scan_of(files)], tmp_path / "large").slices
    assert isinstance(large, OnDisk)
    assert large.nbytes == 2 * one


def test_a_blank_channel_is_refused_with_its_number_and_blank_slices_are_those_without_any_channel(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(16, 16, 4, 2)).astype(np.float32)
    array[:, :, 0] = 3
    array[:, :, 1, 1] = 0
    made = prepare(Volume(array, AFFINE, (0.8, 0.8, 2.0)), Slicing(size=16))
    assert made.blank == 1
    assert not made.slices[0].any()
    assert [made.slices[1, channel].any() for channel in range(2)] == [True, False]
    array[..., 1] = 7
    with pytest.raises(DataError, match="channel 2 of 2 is blank: all voxels are 7"):
        prepare(Volume(array, AFFINE, (0.8, 0.8, 2.0)), Slicing(size=16))
    array[..., 1] = rng.normal(size=(16, 16, 4))
    array[..., 0] += 5000
    with pytest.raises(DataError, match=r"channel 1 of 2 has nothing but blank slices once clipped to \(-9\.0, 9\.0\)"):
        prepare(Volume(array, AFFINE, (0.8, 0.8, 2.0)), Slicing(size=16, window=(-9, 9)))


def test_a_reader_may_give_all_channels_itself(tmp_path):
    files = write_channels(tmp_path, "a", channels=3)
    colours = np.stack([Nifti().read(file).array for file in files], axis=-1)
    volume = Volume(colours, AFFINE, (0.8, 0.8, 2.0))
    stack = Stack.of(volume, "sagittal")
    assert stack.slices.shape == (24, 3, 12, 24)
    assert stack.grid == (24, 12, 24)
    assert np.array_equal(stack.back(np.moveaxis(stack.slices, 1, -1)), colours)
    assert np.array_equal(stack.cut(colours[..., 1]), stack.slices[:, 1])
    assert prepare(volume, Slicing(size=16)).slices.shape == (12, 3, 16, 16)


def test_a_label_map_has_one_channel(tmp_path):
    two = Volume(np.ones((4, 5, 6, 2), np.uint8), AFFINE, (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="x: has 2 channels, a label map has one"):
        label_values(two, "x")


def test_a_scan_looks_like_a_label_map_only_if_all_its_channels_do():
    labels = np.zeros((24, 24, 12), np.int16)
    labels[4:12, 4:12] = 1
    for second, looks in ((labels * 2, True), (blobs(12, 24, 24), False)):
        volume = Volume(np.stack([labels, second], axis=-1), AFFINE, (0.8, 0.8, 2.0))
        assert bool(looks_like_labels(volume)) is looks
        assert bool(looks_like_labels(Volume(volume.array[..., ::-1], AFFINE, (0.8, 0.8, 2.0)))) is looks
