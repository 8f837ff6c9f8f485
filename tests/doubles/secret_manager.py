"""A double of Secret Manager: reads versions of secrets, damaged or refused on demand."""

import base64
from typing import Any

import google_crc32c

from tests.doubles.rest import Refused, RestDouble


class FakeSecretManager(RestDouble):
    """Holds secrets by their full name, `projects/P/secrets/NAME`."""

    def __init__(self, **secrets: str) -> None:
        super().__init__()
        self.secrets = {f"projects/dogs/secrets/{name}": value for name, value in secrets.items()}
        self.damaged = self.busy = False
        self.env = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": self.endpoint}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        name, _, version = path.removeprefix("/v1/").partition("/versions/")
        if name not in self.secrets or version != "latest:access":
            raise Refused(404, "NOT_FOUND", f"Secret [{name}] not found or has no versions.")
        if self.busy:
            raise Refused(429, "RESOURCE_EXHAUSTED", "Quota exceeded.")
        value = self.secrets[name].encode()
        checksum = google_crc32c.value(value)
        sent = value[::-1] if self.damaged else value
        payload = {"data": base64.b64encode(sent).decode(), "dataCrc32c": str(checksum)}
        return {"name": f"{name}/versions/1", "payload": payload}
