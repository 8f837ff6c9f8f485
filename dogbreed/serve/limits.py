"""What a server takes, and what it refuses."""

import dataclasses

from dogbreed.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on requests.

    Args:
        body: bytes of a request at most.
        pictures: in a request at most.
        pixels: of a picture at most.
        queue: pictures in the server at most, those that are still being read included.
        timeout: seconds from a request's first byte to its answer at most.
        buckets: that `gs://` pictures may come from.
    """

    body: int = 32 * 10**6
    pictures: int = 64
    pixels: int = 50_000_000
    queue: int = 128
    timeout: float = 30.0
    buckets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("body", "pictures", "pixels", "queue", "timeout"):
            if not getattr(self, name) > 0:
                raise BadInput(f"--{name} {getattr(self, name)}: must be above 0")
        if self.pictures > self.queue:
            raise BadInput(
                f"--pictures {self.pictures}: more than --queue {self.queue} could never be taken"
            )
        for bucket in self.buckets:
            if "/" in bucket or not bucket:
                raise BadInput(f"--buckets {bucket!r}: say the name alone, such as my-bucket")
