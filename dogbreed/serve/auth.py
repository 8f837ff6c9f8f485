"""API keys: several, so that they can be changed one after another; compared in constant time."""

import hashlib
import hmac
import os
from pathlib import Path

from fastapi import HTTPException, Request

from dogbreed.errors import BadInput

HEADER = "X-API-Key"
VARIABLE = "DOGBREED_API_KEYS"
_SHORTEST = 16


class Keys:
    """The keys that open the door; none of them: it stands open.

    Args:
        keys: in clear; their digests alone are kept.
    """

    def __init__(self, keys: list[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def find(cls, path: str | None) -> "Keys":
        """Those of a file, one in a line, and of the environment, with commas between.

        Raises:
            BadInput: the file cannot be read or holds none, or a key is easy to guess.
        """
        keys = [key.strip() for key in os.environ.get(VARIABLE, "").split(",") if key.strip()]
        if path is not None:
            try:
                lines = Path(path).expanduser().read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise BadInput(f"--api_keys_file {path}: {error}") from None
            found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
            if not found:
                raise BadInput(f"--api_keys_file {path}: holds no key; write one in a line")
            keys += found
        if any(len(key) < _SHORTEST for key in keys):
            raise BadInput(f"an API key has fewer than {_SHORTEST} characters: easy to guess")
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def opens(self, key: str) -> bool:
        """Whether the key is one of them; the time taken tells nothing."""
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        return any([hmac.compare_digest(digest, one) for one in self._digests])  # noqa: C419

    def check(self, request: Request) -> None:
        """Let a request pass.

        Raises:
            HTTPException: 401, without a key or with a wrong one.
        """
        if self and not self.opens(request.headers.get(HEADER, "")):
            raise HTTPException(
                401, f"no valid key in the header {HEADER}", {"WWW-Authenticate": "ApiKey"}
            )
