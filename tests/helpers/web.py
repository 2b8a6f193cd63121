"""A folder served by HTTP from a thread, as `python -m http.server` does, and a server that misbehaves on request."""

import base64
import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Web:
    """A server and what it was asked for; what is put into its fields changes its answers.

    Attributes:
        asked: how often for each method and path, such as `GET /a.nii.gz`.
        answers: status codes that are given for a path, one after the other, instead of the file.
        cut: paths of which half comes, and then the connection ends; as often as the number says.
        stalls: after half of these paths the server says nothing until `go` is set.
        password: `user:password` that it wants.
        undated: whether it says no dates.
        packing: whether it calls a .gz file one that it has packed for the way.
    """

    folder: Path
    port: int = 0
    asked: Counter = field(default_factory=Counter)
    answers: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    stalls: set[str] = field(default_factory=set)
    go: threading.Event = field(default_factory=threading.Event)
    password: str = ""
    undated: bool = False
    packing: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def files_fetched(self) -> Counter:
        """How often each file was fetched; pages that list folders are none."""
        got = {asked[4:]: n for asked, n in self.asked.items() if asked.startswith("GET ") and "." in asked}
        self.asked.clear()
        return Counter(got)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *given, web, **options):
        self.web = web
        super().__init__(*given, directory=web.folder, **options)

    def log_message(self, *words):
        pass

    def send_header(self, name, value):
        if self.web.packing and name == "Content-type" and self.path.endswith(".gz"):
            super().send_header("Content-Encoding", "gzip")
        if not (self.web.undated and name == "Last-Modified"):
            super().send_header(name, value)

    def send_head(self):
        self.web.asked[f"{self.command} {self.path}"] += 1
        wanted = f"Basic {base64.b64encode(self.web.password.encode()).decode()}"
        if self.web.password and self.headers.get("Authorization") != wanted:
            return self.send_error(401)
        if codes := self.web.answers.get(self.path):
            return self.send_error(codes.pop(0))
        return super().send_head()

    def copyfile(self, source, out):
        content = source.read()
        with contextlib.suppress(ConnectionError):
            if self.path in self.web.stalls:
                out.write(content[: len(content) // 2])
                out.flush()
                self.web.go.wait(60)
                out.write(content[len(content) // 2 :])
            elif self.web.cut.get(self.path):
                self.web.cut[self.path] -= 1
                out.write(content[: len(content) // 2])
            else:
                out.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # of the usual 5 a burst of connections overflows, and those come again seconds later


@contextlib.contextmanager
def served(folder):
    """Serve a folder; yields the `Web`."""
    web = Web(Path(folder))
    server = _Server(("127.0.0.1", 0), partial(_Handler, web=web))
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.go.set()
        server.shutdown()
        server.server_close()
        thread.join()
