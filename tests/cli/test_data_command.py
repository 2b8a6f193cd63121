"""`ssmtl data phantom`: what it writes is what `ssmtl run` and others read."""

import nibabel as nib
import numpy as np


def test_the_phantom_is_written_as_nifti_with_labels(ssmtl, tmp_path):
    done = ssmtl("data", "phantom", "out", "--patients", 2, "--modality", "mri", "--seed", 5)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out\n"
    images = sorted((tmp_path / "out" / "images").iterdir())
    assert [p.name for p in images] == ["phantom_mri_001.nii.gz", "phantom_mri_002.nii.gz"]
    image, label = nib.load(images[0]), nib.load(tmp_path / "out" / "labels" / images[0].name)
    assert image.shape == label.shape
    assert np.array_equal(image.affine, label.affine)
    assert set(np.unique(label.dataobj)) == {0, 205, 420, 500, 550, 600, 820, 850}


def test_a_folder_with_files_in_it_is_not_written_into(ssmtl, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.nii").write_text("")
    done = ssmtl("data", "phantom", "out")
    assert done.returncode == 2
    assert "out: is not empty" in done.stderr


def test_a_wrong_command_is_told_with_the_nearest(ssmtl):
    done = ssmtl("rum")
    assert (done.returncode, "did you mean 'run'" in done.stderr) == (2, True)
