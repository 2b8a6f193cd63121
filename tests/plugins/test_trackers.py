"""The bundled trackers: what they record is read again by the library that it is for."""

import csv
import os
import struct
import time

import numpy as np
import pytest
from PIL import Image

from helpers.small import SMALL
from ssmtl_toolkit import finetune
from ssmtl_toolkit.engine.tracker import TrackedRun
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import TrackerSpec

ID = "0123456789abcdef"
LOSS = "slice_siam:t=2,weight=0.5/loss"
CONFIG = {"backbone": "unet", "lr": 0.001, "window": [-160, 240]}


def record(text, folder, first=0, state="finished"):
    """A run of two parts with a step each, told to a tracker."""
    picture = folder.parent / "picture.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(picture)
    folder.mkdir(exist_ok=True)
    tracker = registry().resolve(TrackerSpec, text).open(TrackedRun(folder, "first", ID, "finetune", CONFIG))
    for number, part in enumerate(("pretrained-0", "scratch-0")):
        tracker.training(part, first)
        tracker.scalars(part, first + 10, {LOSS: 0.5 + number + first})
    tracker.picture("samples/anchor", picture)
    tracker.scores({"arms/pretrained/iou": 0.75})
    tracker.end(state)
    return tracker.where()


def rows(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_csv_tells_parts_apart_and_has_options_scores_and_the_end(tmp_path):
    folder = tmp_path / "run"
    where = record("csv", folder)
    assert where == str(folder / "csv" / "scalars.csv")
    assert rows(folder / "csv" / "scalars.csv") == [
        ["part", "step", "name", "value"],
        ["pretrained-0", "10", LOSS, "0.5"],
        ["scratch-0", "10", LOSS, "1.5"],
    ]
    assert rows(folder / "csv" / "scores.csv")[1:] == [["arms/pretrained/iou", "0.75"], ["state", "finished"]]
    assert ["window", "[-160, 240]"] in rows(folder / "csv" / "config.csv")


def test_csv_of_a_resumed_run_has_each_step_once(tmp_path):
    record("csv", tmp_path / "run", state="interrupted")
    record("csv", tmp_path / "run")
    record("csv", tmp_path / "run", first=10)
    steps = [(part, step) for part, step, *_ in rows(tmp_path / "run" / "csv" / "scalars.csv")[1:]]
    assert sorted(steps) == [(part, step) for part in ("pretrained-0", "scratch-0") for step in ("10", "20")]


@pytest.mark.slow
def test_csv_of_a_fine_tuning_has_a_part_for_each_arm_and_seed(tmp_path):
    finetune(
        data="phantom:patients=3",
        backbone=SMALL,
        size=32,
        steps=2,
        log_every=1,
        seeds=2,
        train_scans=1,
        slices_per_scan=4,
        test_scans=1,
        surface=False,
        track="csv",
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    steps = [(part, step) for part, step, *_ in rows(tmp_path / "run" / "csv" / "scalars.csv")[1:]]
    assert steps == [("scratch-0", "1"), ("scratch-0", "2"), ("scratch-1", "1"), ("scratch-1", "2")]
    scores = dict(rows(tmp_path / "run" / "csv" / "scores.csv"))
    assert 0 <= float(scores["arms/scratch/iou"]) <= 1
    assert scores["state"] == "finished"


@pytest.mark.slow
def test_tensorboard_shows_a_curve_for_each_part(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record("tensorboard", tmp_path / "run")
    for first in (0, 10):  # as if resumed from the first step; files of one second and process may be read in any order
        time.sleep(1.01)
        record("tensorboard", tmp_path / "run", first=first)

    def events(name):
        read = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard" / name))
        read.Reload()
        return read

    for part, loss in (("pretrained-0", 0.5), ("scratch-0", 1.5)):
        assert [(event.step, event.value) for event in events(part).Scalars(LOSS)] == [(10, loss), (20, loss + 10)]
    run = events("")
    assert "scores/arms/pretrained/iou" in run.Tags()["scalars"]
    assert run.Tags()["images"] == ["samples/anchor"]
    assert run.Tensors("state/text_summary")[-1].tensor_proto.string_val == [b"finished"]


@pytest.mark.slow
def test_mlflow_continues_a_resumed_run_in_the_same_one(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record("mlflow:group=paper", tmp_path / "run", state="failed")
    record("mlflow:group=paper", tmp_path / "run", first=10)
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "run" / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("ssmtl").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["group"]) == ("first", "FINISHED", "paper")
    assert run.data.params["lr"] == "0.001"
    assert run.data.metrics["scores/arms/pretrained/iou"] == 0.75
    history = client.get_metric_history(run.info.run_id, "scratch-0/slice_siam:t:2 weight:0.5/loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 1.5), (20, 11.5)]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "pictures")] == ["pictures/picture.png"]


@pytest.mark.slow
def test_wandb_works_offline_and_names_no_host_user_or_folder(tmp_path):
    pytest.importorskip("wandb")
    where = record("wandb", tmp_path / "run", state="interrupted")
    record("wandb", tmp_path / "run", first=10)
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{ID}.wandb"))
    assert where == f"wandb sync {files[0].parent}"
    written = [list(wandb_records(file)) for file in files]
    runs = [record.run for records in written for record in records if record.HasField("run")]
    assert {(run.run_id, run.display_name, run.project) for run in runs} == {(ID, "first", "ssmtl")}
    assert {run.host for run in runs} == {"not recorded"}
    history = [
        {(item.key or "/".join(item.nested_key)): item.value_json for item in record.history.item}
        for records in written
        for record in records
        if record.HasField("history")
    ]
    points = [(line["scratch-0/step"], line[f"scratch-0/{LOSS}"]) for line in history if "scratch-0/step" in line]
    assert points == [("10", "1.5"), ("20", "11.5")]
    assert [r.exit.exit_code for records in written for r in records if r.HasField("exit")] == [130, 0]


def wandb_records(file):
    """The records of wandb's own file: blocks of 32 KiB as in LevelDB's log, each record a protocol buffer."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # whole, or the last part of one
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_trackio_continues_a_resumed_run_in_the_same_one(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    record("trackio:project=tested", tmp_path / "run", state="interrupted")
    record("trackio:project=tested", tmp_path / "run", first=10)
    try:
        assert SQLiteStorage.get_runs("tested") == [f"first-{ID[:6]}"]
        logs = SQLiteStorage.get_logs("tested", f"first-{ID[:6]}")
        losses = [(line["step"], line[f"scratch-0/{LOSS}"]) for line in logs if f"scratch-0/{LOSS}" in line]
        assert losses == [(10, 1.5), (20, 11.5)]
        assert [line["state"] for line in logs if "state" in line] == ["interrupted", "finished"]
    finally:
        SQLiteStorage.get_project_db_path("tested").unlink()
