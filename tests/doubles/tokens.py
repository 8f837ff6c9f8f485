"""A double of Google's token endpoint, and the file of a service account that asks it."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

LIFE = 20  # tokens issued after which one is refused


class Issuer:
    """Google's token endpoint: each token is said to be about to expire, so clients ask often."""

    def __init__(self) -> None:
        self.issued, self.accepted = 0, deque[str](maxlen=LIFE)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                issuer.issued += 1
                issuer.accepted.append(f"token-{issuer.issued}")
                about = {"access_token": issuer.accepted[-1], "expires_in": 1}
                body = json.dumps(about | {"token_type": "Bearer"}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def account(self, path: Path) -> None:
        """Write the file of a service account that gets its tokens here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        about = {
            "type": "service_account",
            "project_id": "dogs",
            "private_key": pem.decode(),
            "client_email": "trainer@dogs.iam.gserviceaccount.com",
            "token_uri": self.url,
        }
        path.write_text(json.dumps(about))

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
