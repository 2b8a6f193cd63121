"""Files that are built to run code or to break a reader are refused in one line, whichever way they are given."""

import json
import pickle
import struct

import numpy as np
import torch

from helpers.small import write_scan

NAMES = ("x.pt", "x.pth", "x.bin", "x.pkl", "x.npy", "x.npz", "x.ckpt", "x.safetensors", "x.yaml", "x.toml", "x.nii")
WAYS = (
    ["run", "--data", "{}"],
    ["run", "--data", "scans", "--config", "{}"],
    ["run", "--data", "scans", "--from", "{}"],
    ["run", "--resume", "{}"],
    ["finetune", "--data", "scans", "--recipe", "{}"],
    ["finetune", "--data", "scans", "--from", "{}"],
    ["finetune", "--data", "scans", "--split", "{}"],
    ["predict", "scans", "--from", "{}", "--out", "out"],
)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return __import__("os").mkdir, (self.marker,)


def evil(file, marker):
    content = {"state_dict": {"conv1.weight": torch.zeros(1)}, "more": Evil(marker)}
    if file.suffix in (".npy", ".npz"):
        {".npy": np.save, ".npz": np.savez}[file.suffix](file, np.array([Evil(marker)], object))
    elif file.suffix in (".yaml", ".toml"):
        file.write_text(f"!!python/object/apply:os.mkdir ['{marker}']\n")
    elif file.suffix in (".pkl", ".safetensors", ".nii"):
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=file.suffix != ".ckpt")
    return file


def refused(done):
    assert done.returncode in (2, 3), done.stderr
    assert "not expected" not in done.stderr
    assert done.stdout == ""
    assert all(c.isprintable() or c == "\n" for c in done.stderr)
    error = done.stderr.partition("error: ")[2].strip()
    assert 1 <= len(error.splitlines()) <= 3, done.stderr  # a line; of scans a head, the reason, a hint
    return done.stderr


def test_files_that_would_run_code_run_none_whichever_way_they_are_given(ssmtl, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write_scan(tmp_path / "scans" / "a.nii.gz")
    for name in NAMES:
        file = evil(tmp_path / name, tmp_path / "marker")
        for way in WAYS:
            refused(ssmtl(*(file if word == "{}" else word for word in way)))
            assert not (tmp_path / "marker").exists(), (name, way)
    pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert (tmp_path / "marker").exists()  # the files are what they claim to be


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


NAN = struct.pack("<f", float("nan"))
BROKEN = {
    "empty": b"",
    "header of 2^62": struct.pack("<Q", 1 << 62) + b"{}",
    "header of 100 MB that is not there": struct.pack("<Q", 100_000_000) + b"{",
    "not JSON": safetensors(b"\x80\x04."),
    "nested without end": safetensors(b"[" * 100_000),
    "4 TB": safetensors({"encoder.a": tensor(0, 1 << 42, (1 << 40,))}),
    "overlap": safetensors({"encoder.a": tensor(0, 4), "encoder.b": tensor(0, 4)}, bytes(4)),
    "hole": safetensors({"encoder.a": tensor(0, 4), "encoder.b": tensor(8, 12)}, bytes(12)),
    "trailing bytes": safetensors({"encoder.a": tensor(0, 4)}, bytes(400)),
    "wrong shape": safetensors({"encoder.a": tensor(0, 4, (2,))}, bytes(4)),
    "huge shape": safetensors({"encoder.a": tensor(0, 4, (1 << 40, 1 << 40))}, bytes(4)),
    "negative offset": safetensors({"encoder.a": tensor(-4, 0)}, bytes(4)),
    "unknown type": safetensors({"encoder.a": tensor(0, 4, dtype="X9")}, bytes(4)),
    "NaN": safetensors({"encoder.a": tensor(0, 4)}, NAN),
    "nothing that fits": safetensors({"encoder.\x1b[31m\n": tensor(0, 4)}, bytes(4)),
    "metadata that is no text": safetensors({"__metadata__": {"ssmtl": 1}, "encoder.a": tensor(0, 4)}, bytes(4)),
    "metadata with escapes": safetensors({"__metadata__": {"ssmtl": '{"\x1b[31m": 1}'}}),
}


def test_safetensors_that_lie_are_refused_by_name(ssmtl, tmp_path):
    write_scan(tmp_path / "scans" / "a.nii.gz")
    (tmp_path / "b").mkdir()
    for content in BROKEN.values():
        (tmp_path / "b" / "x.safetensors").write_bytes(content)
        for way in (
            ["predict", "--from", "b/x.safetensors", "scans", "--out", "out"],
            ["run", "--data", "scans", "--from", "b/x.safetensors", "--backbone", "unet:encoder=plain,width=4"],
        ):
            assert "b/x.safetensors: " in refused(ssmtl(*way))
