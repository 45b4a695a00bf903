"""Servers for the tests of served models: one that fails as it is told, and one that users start."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError
from urllib.request import urlopen

PATIENCE = 120  # seconds for a server of transformers to come up on a busy machine


@dataclass(frozen=True)
class Reply:
    """What the faulty server does with one request.

    body:    text as it is, or an object to send as JSON;
    held:    keep the client waiting until the server is released or the client hangs up;
    dripping: send blanks, one by one, for ever;
    cut:     send half of the body, then drop the connection.
    """

    body: object = ""
    status: int = 200
    headers: dict = field(default_factory=dict)
    held: bool = False
    dripping: bool = False
    cut: bool = False


def completion(text="kitchen", *, finish_reason="stop", **message):
    """Return a reply as chat completions and plain completions have it, in one."""
    choice = {"message": {"role": "assistant", "content": text, **message}, "text": text}
    usage = {"prompt_tokens": 11, "completion_tokens": 2}
    return Reply({"choices": [{**choice, "finish_reason": finish_reason}], "usage": usage})


def error(status, message="no", **said):
    """Return a reply of a status with an error in the form of OpenAI's."""
    headers = said.pop("headers", {})
    return Reply({"error": {"message": message, **said}}, status, headers)


class FaultyServer:
    """An OpenAI-compatible server on loopback that follows a script.

    script:  by prompt, the replies to its first, second ... request; the last one goes on for ever;
    wait_for: each request waits until so many are there at once;  models: the reply to a request for the list of them.
    requests: what was sent, in order;  most_at_once, num_hung_up: counts;  base_url: the address for clients.
    """

    def __init__(self, script=None, *, otherwise=None, wait_for=1):
        self.script = script or {}
        self.otherwise = otherwise or completion()
        self.models = Reply({"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        self.requests, self.headers, self.paths = [], [], []
        self.most_at_once = self.num_hung_up = self._at_once = 0
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(wait_for)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.released.set()
        self._barrier.abort()
        self._http.shutdown()
        self._http.server_close()

    @property
    def num_sent(self):
        """Times that each prompt was sent."""
        return Counter(map(prompt_of, self.requests))

    def _handler(server):  # noqa: B902, N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with contextlib.suppress(ConnectionError), server._counted():
                    server._follow(self, server._note(self, request))

            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    server._follow(self, server.models)

            def log_message(self, *arguments):
                pass

        return Handler

    @contextlib.contextmanager
    def _counted(self):
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            with contextlib.suppress(threading.BrokenBarrierError):
                self._barrier.wait(10)
            if self._barrier.parties > 1:
                time.sleep(0.05)  # for one too many to arrive
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def _note(self, handler, request):
        """Write a request down and return the reply to it."""
        with self._lock:
            number = self.num_sent[prompt_of(request)]
            self.requests.append(request)
            self.headers.append(handler.headers)
            self.paths.append(handler.path)
        replies = self.script.get(prompt_of(request), [self.otherwise])
        return replies[min(number, len(replies) - 1)]

    def _follow(self, handler, reply):
        if reply.held and not self._hold(handler):
            return
        body = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        handler.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(1_000 if reply.dripping else len(body))}
        for name, value in {**headers, **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        while reply.dripping and not self.released.wait(0.02):
            handler.wfile.write(b" ")
        handler.wfile.write(body[: len(body) // 2] if reply.cut else body)
        if reply.cut:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

    def _hold(self, handler):
        """Return whether the client is still there when the server is released."""
        while not self.released.wait(0.01):
            if select.select([handler.connection], [], [], 0)[0] and not handler.connection.recv(1, socket.MSG_PEEK):
                with self._lock:
                    self.num_hung_up += 1
                return False
        return True


def prompt_of(request):
    """Return the user's text in a request."""
    return request["messages"][-1]["content"] if "messages" in request else request["prompt"]


class TransformersServer:
    """`transformers serve` with one model on a port of its own; killed at the end, whatever happens.

    log: a file for all that it says, over all its lives.
    """

    def __init__(self, folder, log):
        self.folder, self.log, self.port, self._process = folder, log, free_port(), None
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()

    def start(self):
        """Start it; it is not there at once."""
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(self.folder)]
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(
                command + options, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self):
        """Return when it answers. Raises: AssertionError with what it said if it ends before."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(URLError, ConnectionError), urlopen(self.base_url[:-2] + "health", timeout=5):
                return
            time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-3_000:])

    def kill(self):
        """Kill it and all that it started, by SIGKILL."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def is_alive(self):
        return self._process.poll() is None


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]
