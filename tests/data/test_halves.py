"""What is half written: removed at the next start if its writer is dead, and only then."""

import os
import subprocess
import sys

from ssmtl_toolkit.data.files import atomic_write
from ssmtl_toolkit.disk import half_of

KILLED = """
import os, sys
from pathlib import Path
from ssmtl_toolkit.disk import half_of
for name in ("scan.nii.gz", "export"):
    half = half_of(Path(sys.argv[1]) / name)
    half.mkdir() if name == "export" else half.write_text("half")
    print(half.name)
"""


def test_the_halves_of_the_dead_are_removed_those_of_the_living_and_of_other_machines_stay(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True, check=True)
    dead = [tmp_path / name for name in done.stdout.split()]
    assert [half.exists() for half in dead] == [True, True]
    host, _, rest = dead[0].name.removeprefix(".scan.nii.gz.").partition("-")
    names = [f".a.{host}-{os.getpid()}-1.part", f".a.{'0' * 8}-{rest}", f"a.{host}-{rest}", f".{host}-{rest}", "b.part"]
    for name in names:
        (tmp_path / name).write_text("mine")
    with atomic_write(tmp_path / "new.txt") as temporary:
        temporary.write_text("new")
    assert not any(half.exists() for half in dead)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*names, "new.txt"])


def test_a_folder_is_looked_through_once(tmp_path):
    first = half_of(tmp_path / "a")
    assert first == half_of(tmp_path / "a")
    assert first.name.startswith(".a.")
    assert first.name.endswith(".part")
