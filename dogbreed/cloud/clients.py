"""How Google's clients reach their service, or a double of it."""

import os
from typing import Any
from urllib.parse import urlsplit


def transport(rest: Any, service: str, host: str | None = None) -> Any:
    """A client's transport over HTTPS, with the machine's own credentials.

    gcloud's variable `CLOUDSDK_API_ENDPOINT_OVERRIDES_<SERVICE>` names another server; where that
    speaks plain HTTP, it gets no credentials.

    Args:
        rest: the client's REST transport class: gRPC could not be sent to a double.
        service: `aiplatform` or `secretmanager`.
        host: the server's name; by default the transport's own.
    """
    from google.auth.credentials import AnonymousCredentials

    override = urlsplit(os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}", ""))
    if override.scheme == "http":
        anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
        return rest(host=override.netloc, url_scheme="http", credentials=anonymous)
    host = override.netloc or host
    return rest(host=host) if host else rest()
