"""Asks a server for much, and compares what it says with what it said when it was idle."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

from tests.conftest import picture_file
from tests.serve.conftest import Served

PHOTOS = [picture_file(320 + k, 240 + k, k) for k in range(20)]


class Client:
    """HTTP by hand, on connections that are kept: whoever asks must take less time than the server.

    Args:
        url: a server's.
    """

    def __init__(self, url: str) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        head = "POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: image/jpeg\r\nContent-Length: "
        self._requests = [f"{head}{len(data)}\r\n\r\n".encode() + data for data in PHOTOS]

    async def post(self, k: int) -> tuple[int, Any]:
        """Status and answer for a photograph.

        Raises:
            OSError, EOFError: the server closed the connection.
        """
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                break
            writer.close()
        else:
            reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(self._requests[k])
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            body = await reader.readexactly(int(length))
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return int(head[9:12]), json.loads(body)

    def close(self) -> None:
        """Let all connections go."""
        for _, writer in self._idle:
            writer.close()


class Load:
    """Asks, and counts what comes.

    Args:
        served: a server that is idle.
    """

    def __init__(self, served: Served) -> None:
        self._url = served.url
        self.right = [served.predict(photo)[0]["top5"] for photo in PHOTOS]
        self.said: Counter[str] = Counter()
        self.refused: list[float] = []  # seconds until a 503
        self.late = 0.0  # seconds that a request was sent after its time, at most

    async def _ask(self, client: Client, number: int) -> None:
        k, begun = number % len(PHOTOS), time.monotonic()
        try:
            status, said = await client.post(k)
        except (OSError, EOFError) as error:
            self.said[type(error).__name__] += 1
            return
        if status == 503:
            self.refused.append(time.monotonic() - begun)
            self.said["worker died" if "worker" in said["detail"] else "refused"] += 1
        elif status == 200:
            self.said["right" if self._same(said[0], k) else "wrong"] += 1
        else:
            self.said[str(status)] += 1

    def _same(self, entry: dict[str, Any], k: int) -> bool:
        pairs = zip(entry["top5"], self.right[k], strict=True)
        return all(abs(a["probability"] - b["probability"]) < 1e-4 for a, b in pairs)

    async def closed(self, clients: int, seconds: float) -> float:
        """Each client asks when it is answered; requests a second."""
        client, count, end = Client(self._url), 0, time.monotonic() + seconds

        async def one(number: int) -> None:
            nonlocal count
            while time.monotonic() < end:
                await self._ask(client, number + count)
                count += 1

        try:
            await asyncio.gather(*(one(k) for k in range(clients)))
        finally:
            client.close()
        return count / seconds

    async def open(self, rate: float, seconds: float) -> None:
        """Ask so many times a second, whatever the answers."""
        client, tasks = Client(self._url), set[asyncio.Task[None]]()
        begun = time.monotonic()
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            elif number % 32 == 0:
                await asyncio.sleep(0)  # or answers would never be read
            self.late = max(self.late, time.monotonic() - due)
            task = asyncio.create_task(self._ask(client, number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        client.close()
