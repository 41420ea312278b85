"""A publisher's server on this machine, whose downloads may end half-way."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from otad_ray.data.downloads import Remote


class Publisher:
    """Files by name at an address; of those in `cut`, only half is sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.address = ""

    def publish(self, name: str, content: bytes) -> Remote:
        self.files[name] = content
        return Remote(f"{self.address}/{name}", f"sha256:{hashlib.sha256(content).hexdigest()}")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            if name not in publisher.files:
                self.send_error(404)
                return
            content = publisher.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name in publisher.cut else content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        publisher.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield publisher
        server.shutdown()
        thread.join()
