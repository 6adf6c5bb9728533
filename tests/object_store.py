"""A real S3 server on this machine, behind a connection that can be cut.

    client --AWS_ENDPOINT_URL--> Proxy (this process) --> moto's server (its own process)

moto keeps its objects in memory, so a lost server is played by the proxy: it cuts what is under way and refuses what
comes next, until `restore`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import pyarrow.fs as pafs

BODY_BYTES = 10
_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")
_REFUSAL = (
    b"<Error><Code>InvalidRequest</Code><Message>The specified copy source is larger than the maximum allowable size"
    b"</Message></Error>"
)
TOO_LARGE_TO_COPY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    + f"Content-Length: {len(_REFUSAL)}\r\n\r\n".encode()
    + _REFUSAL
)
_DENIAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
DENIED = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    + f"Content-Length: {len(_DENIAL)}\r\n\r\n".encode()
    + _DENIAL
)


class Proxy:
    """Forwards connections to a port of this machine, until it is told to cut them."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.target: int | None = None
        self.down = False
        self.cuts = 0
        self.connections = 0
        self.requests: list[str] = []
        """What clients asked for, as ``GET /bucket/key``."""
        self.refuses_copies = False
        """Answer a copy on the server as one does whose limit the object is above."""
        self.denied: tuple[bytes, ...] = ()
        """Beginnings of requests that are answered as by a store that does not grant that right."""
        self._planned: list[tuple[bytes, float | None, str | None]] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_inside(self, request: str, seconds: float | None = None, after: str | None = None) -> None:
        """Go down inside the body of the first request that begins so, for ``seconds`` or until `restore`.

        With ``after`` the request is held back until the object of that path is there; a client that loses patience
        and asks again is held back, too. Several calls are done in their order.
        """
        self._planned.append((request.encode(), seconds, after))

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        self.down = True
        self.cuts += 1
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def restore(self) -> None:
        """Forward again."""
        self.down = False

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if self.down or self.target is None:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink, sink is server), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upstream: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if upstream and (found := _REQUEST.match(data)):  # a client sends the head of a request at once
                    self.requests.append(b" ".join(found.groups()).decode())
                if upstream and self._planned and data.startswith(self._planned[0][0]):
                    self._do_planned(self._planned[0], data, sink)
                    return
                if upstream and self.denied and data.startswith(self.denied):
                    source.sendall(DENIED)
                    break
                if upstream and self.refuses_copies and b"x-amz-copy-source" in data.partition(b"\r\n\r\n")[0].lower():
                    source.sendall(TOO_LARGE_TO_COPY)
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, sink}

    def _do_planned(self, plan: tuple[bytes, float | None, str | None], data: bytes, sink: socket.socket) -> None:
        _, seconds, after = plan
        while after is not None and not self._is_stored(after):
            time.sleep(0.05)
        with self._lock:
            if plan not in self._planned:
                return
            self._planned.remove(plan)
        sink.sendall(data[: data.index(b"\r\n\r\n") + 4 + BODY_BYTES])
        self.cut()
        if seconds is not None:
            threading.Timer(seconds, self.restore).start()

    def _is_stored(self, path: str) -> bool:
        assert self.target is not None, "a request came through, so there is a server"
        server = pafs.S3FileSystem(endpoint_override=f"127.0.0.1:{self.target}", scheme="http")  # signs what it asks
        return server.get_file_info(path.lstrip("/")).type == pafs.FileType.File


def use_endpoint(port: int) -> None:
    """Point this process, and the Ray workers that it starts, to an S3 server; must come before `ray.init`."""
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "test"
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"


@contextlib.contextmanager
def s3_server(bucket: str) -> Iterator[int]:
    """moto's server with one bucket; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, "moto's server ended"
            try:
                connection = HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request("PUT", f"/{bucket}")
                assert connection.getresponse().status == 200
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "moto's server did not start"
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()
