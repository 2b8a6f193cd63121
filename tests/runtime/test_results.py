"""What the functions return in Python: each result stands for its folder."""

import os
import subprocess
import sys

import pytest

import ssmtl_toolkit
from ssmtl_toolkit import Compared, Finetuned, Run


@pytest.mark.parametrize("result", [Run, Finetuned, Compared])
def test_a_result_can_be_given_wherever_its_folder_can(result, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    end = result(tmp_path, {"run": "first"})
    assert os.fspath(end) == str(tmp_path)
    assert os.listdir(end) == ["summary.json"]  # noqa: PTH208
    assert (end.folder, end.summary) == (tmp_path, {"run": "first"})
    assert repr(end).startswith(result.__name__)
    with pytest.raises(AttributeError):
        end.folder = tmp_path.parent


def test_a_pre_training_names_the_file_of_its_backbone(tmp_path):
    assert Run(tmp_path, {}).backbone == tmp_path / "backbone.safetensors"


@pytest.mark.parametrize("name", ssmtl_toolkit.__all__)
def test_every_name_of_the_package_is_there(name):
    assert callable(getattr(ssmtl_toolkit, name))
    assert name in dir(ssmtl_toolkit)


def test_configurations_and_scores_need_no_torch():
    code = (
        "import sys; from ssmtl_toolkit import Evaluated, EvaluateConfig, evaluate, PredictConfig; "
        "print(sorted({'torch', 'timm', 'segmentation_models_pytorch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
