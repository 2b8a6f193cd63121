"""Commands whose n-th file operation fails, or is their last: in forks of one process that has imported everything."""

import contextlib
import ctypes
import errno
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
KILL = 0
WRITING, ALL = "cwsrmup", "ocwsrmup"
FAULTS = {  # by name: errno, which operations can fail with it, whether all later ones fail too
    "kill": (KILL, WRITING, False),
    "full": (errno.ENOSPC, "cwsm", True),
    "full once": (errno.ENOSPC, "cwsm", False),
    "disk": (errno.EIO, ALL, False),
    "forbidden": (errno.EACCES, "ocrmup", False),
    "read-only": (errno.EROFS, "crmup", True),
}


@dataclass
class Ended:
    """How a command ended: minus the signal, if by one."""

    returncode: int
    stdout: str
    stderr: str
    operations: dict[str, int]  # of each kind, if none was to fail
    seconds: float  # of CPU time
    failed: list[str]

    @property
    def said(self) -> str:
        """The last line."""
        return self.stderr.strip().splitlines()[-1] if self.stderr.strip() else ""


class Forks:
    """Runs commands in forks of a process of its own, which imports what the commands to remember import."""

    def __init__(self, scratch: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or not sys.platform.startswith("linux"):
            pytest.skip("needs Linux and a C compiler")
        library = scratch / "faults.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        self._log = scratch / "failed"
        environment = {**os.environ, "LD_PRELOAD": str(library), "FAULT_LOG": str(self._log)}
        environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE.parent.parent), *sys.path])
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.faults"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=scratch,
        )

    def remember(self, *args: object) -> None:
        """Run `ssmtl`, and import all that it has imported."""
        done = self._ask({"args": list(map(str, args)), "variables": {}, "remember": True})
        assert done["code"] == 0, done["stderr"]

    def run(self, *args: object, below: Path | None = None, fault: str = "kill", at: int = 0) -> Ended:
        """Run `ssmtl`; if it is `at` > 0, its operation of this number below a folder fails, else all are counted."""
        number, ops, on = FAULTS[fault] if at else (KILL, ALL, False)
        variables = {"FAULT_ERROR": number, "FAULT_OPS": ops, "FAULT_AT": at, **({"FAULT_ON": 1} if on else {})}
        variables |= {} if below is None else {"FAULT_BELOW": below}
        self._log.unlink(missing_ok=True)
        ended = self._ask({"args": list(map(str, args)), "variables": {k: str(v) for k, v in variables.items()}})
        failed = self._log.read_text().splitlines() if self._log.exists() else []
        return Ended(ended["code"], ended["stdout"], ended["stderr"], ended["operations"], ended["seconds"], failed)

    def _ask(self, request):
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process of the commands has ended"
        return json.loads(answer)

    def close(self) -> None:
        self._process.kill()  # what it has imported takes long to end by itself
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def _serve() -> None:
    """Read requests, a line of JSON each, and answer each when its fork has ended."""
    answers = os.fdopen(os.dup(1), "w")
    with contextlib.redirect_stdout(io.StringIO()):
        for line in sys.stdin:
            request = json.loads(line)
            files = [os.memfd_create(name) for name in ("stdout", "stderr", "counted", "imported")]
            child = os.fork()
            if child == 0:
                _child(request, *files)
            _, status, used = os.wait4(child, 0)
            stdout, stderr, counted, imported = map(_text, files)
            for name in imported.split() if request.get("remember") else ():
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            answer = {"code": os.waitstatus_to_exitcode(status), "stdout": stdout, "stderr": stderr}
            answer |= {"operations": json.loads(counted or "{}"), "seconds": used.ru_utime + used.ru_stime}
            print(json.dumps(answer), file=answers, flush=True)


def _child(request, stdout: int, stderr: int, counted: int, imported: int) -> None:
    os.environ.update(request["variables"])
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")
    code = 99
    try:
        from ssmtl_toolkit.cli import main

        main(request["args"])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        os.environ.pop("FAULT_BELOW", None)
        os.write(counted, json.dumps({op: library.faults_counted(ord(op)) for op in ALL}).encode())
        os.write(imported, "\n".join(sys.modules).encode())
        os._exit(code)


def _text(file: int) -> str:
    with os.fdopen(file, errors="replace") as stream:
        stream.seek(0)
        return stream.read()


if __name__ == "__main__":
    _serve()
