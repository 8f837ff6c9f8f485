"""Secrets by name, from Secret Manager, into this process alone."""

import os
from typing import Any

from requests import RequestException

from dogbreed.cloud.clients import transport
from dogbreed.errors import BadInput, OutOfReach

WANDB_SECRET = "DOGBREED_WANDB_SECRET"
"""The variable that holds the name of the secret with W&B's key: a name is no secret."""


def read(name: str) -> str:
    """A secret's value, with its checksum verified.

    Args:
        name: `projects/PROJECT/secrets/NAME`, its newest version, or `…/versions/VERSION`.

    Raises:
        BadInput: there is no such secret, or no access to it.
        OutOfReach: it is out of reach just now, or it arrived damaged.
    """
    try:
        import google_crc32c
        from google.api_core.exceptions import ClientError, GoogleAPIError, TooManyRequests
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import secretmanager_v1 as secret_manager
    except ImportError as error:
        raise BadInput(f"{name}: needs pip install '.[cloud]' ({error})") from error
    full = name if "/versions/" in name else f"{name}/versions/latest"
    try:
        rest: Any = secret_manager.SecretManagerServiceClient.get_transport_class("rest")
        client = secret_manager.SecretManagerServiceClient(
            transport=transport(rest, "secretmanager")
        )
        payload = client.access_secret_version(name=full, timeout=30).payload
    except TooManyRequests as error:
        raise OutOfReach(f"{full}: {_line(error)}") from error
    except ClientError as error:  # no such secret, or no access to it
        raise BadInput(f"{full}: {_line(error)}") from error
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise OutOfReach(f"{full}: {_line(error)}") from error
    if not payload.data_crc32c or google_crc32c.value(payload.data) != payload.data_crc32c:
        raise OutOfReach(f"{full}: arrived damaged: its checksum is another")
    return payload.data.decode().strip()


def set_wandb_key() -> None:
    """Set `WANDB_API_KEY` in this process, if a secret is named and no key is there yet.

    Raises:
        BadInput: there is no such secret, or no access to it.
        OutOfReach: it cannot be had just now.
    """
    if (name := os.environ.get(WANDB_SECRET)) and not os.environ.get("WANDB_API_KEY"):
        os.environ["WANDB_API_KEY"] = read(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
