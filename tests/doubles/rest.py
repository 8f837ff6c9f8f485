"""What doubles of Google's JSON interfaces have in common: a server on loopback."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


class Refused(Exception):
    """An answer other than 200, in Google's form."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.error = {"error": {"code": code, "status": status, "message": message}}


class RestDouble:
    """Answers JSON over HTTP; a context manager. Subclasses say what in `answer`."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, str, Any]] = []  # method, path and body of each
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                url = urlsplit(self.path)
                body: Any = self.rfile.read(size)
                if double.takes_json(self.command, url.path):
                    body = json.loads(body or b"null")
                double.requests.append((self.command, url.path, body))
                status, answer = 200, {}
                try:
                    answer = double.answer(self.command, url.path, parse_qs(url.query), body)
                except Refused as refused:
                    status, answer = refused.code, refused.error
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

            def handle(self) -> None:
                with contextlib.suppress(ConnectionResetError):  # a client that has gone away
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def takes_json(self, method: str, path: str) -> bool:
        """Whether a request's body is JSON, not bytes as they are."""
        return True

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """The answer to one request, as JSON; raises Refused."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
