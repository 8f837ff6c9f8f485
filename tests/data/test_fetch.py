"""Downloads from a real HTTP server on this machine that can be told to misbehave."""

import errno
import fcntl
import gzip
import io
import json
import os
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dogbreed import retries
from dogbreed.data import fetch as fetch_module
from dogbreed.data.fetch import CHUNK, fetch, kaggle_credentials
from dogbreed.errors import BadInput
from dogbreed.storage import StorageError, digest_of

DATA = random.Random(0).randbytes(10 * CHUNK + 123)
OTHER = random.Random(1).randbytes(9 * CHUNK + 45)
HALF = len(DATA) // 2


class Site(ThreadingHTTPServer):
    """Serves one file at every path; its fields say how, and may be changed at any time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.headers = {"ETag": '"v1"', "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT"}
        self.ranges = True  # heeds Range
        self.if_range = True  # heeds If-Range
        self.silent = False  # says ETag and Last-Modified of the whole file only
        self.shift = 0  # bytes that a range begins too early
        self.most = 1 << 40  # bytes of a range that are given at once
        self.length = True  # says Content-Length
        # of the next requests: ("status", 503), or what happens after so many bytes of the body:
        # ("close", 9), ("reset", 9), ("hold", 9), which closes after `release`
        self.faults: list[tuple[str, int]] = []
        self.moved: dict[str, str] = {}  # path -> where to
        self.held, self.release = threading.Event(), threading.Event()
        self.overdue = False  # nobody gave up waiting, nor let go
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0  # bytes of the file, also those on their way
        self.url = f"http://127.0.0.1:{self.server_port}/dogs.tar"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()

    def do_GET(self) -> None:
        site, asked = self.server, self.headers
        site.requests.append((self.path, dict(asked)))
        if self.path in site.moved:
            self.answer(302, {"Location": site.moved[self.path]}, 0)
            return
        fault, count = site.faults.pop(0) if site.faults else ("", 0)
        if fault == "status":
            self.answer(count, {}, 0)
            return
        status, headers, start, stop = 200, dict(site.headers), 0, len(site.data)
        current = asked.get("If-Range") in {None, *headers.values()} or not site.if_range
        if site.ranges and "Range" in asked and current:
            start = int(asked["Range"].removeprefix("bytes=").removesuffix("-")) - site.shift
            if start >= stop:
                self.answer(416, {"Content-Range": f"bytes */{stop}"}, 9)
                self.wfile.write(b"too much!")
                return
            status, stop = 206, min(stop, start + site.most)
            headers = {} if site.silent else headers
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(site.data)}"
        self.answer(status, headers, stop - start if site.length else None)
        body = site.data[start:stop][: count if fault else None]
        site.sent += len(body)  # before a client can have seen any of it
        self.wfile.write(body)
        if fault == "hold":
            site.held.set()
            site.overdue |= not site.release.wait(20)
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Run a server; no pauses, proxies and stored passwords on the way to it."""
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("NETRC", os.devnull)
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield site
        site.release.set()
        site.shutdown()
        thread.join()


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first failure be the last."""
    monkeypatch.setattr(retries, "ATTEMPTS", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "dogs.tar"


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def failing(url: str, path: Path, *words: str, **options: Any) -> StorageError:
    """Fetch in vain; the one line that says so has `words` in it."""
    with pytest.raises(StorageError) as caught:
        fetch(url, path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    for word in words:
        assert word in text
    return caught.value


def broken_off(site: Site, path: Path) -> None:
    """Fetch until the line breaks, with half of the file there, and the server goes away."""
    site.faults = [("close", HALF), *[("status", 503)] * retries.ATTEMPTS]
    failing(site.url, path, site.url)
    assert site.faults == []
    site.sent = 0
    site.requests.clear()
    assert part_of(path).stat().st_size == HALF


class TestWhole:
    def test_the_file_is_there_with_nothing_beside_it(self, site: Site, path: Path) -> None:
        assert fetch(site.url, path, sha256=digest_of(DATA), size=len(DATA)) == path
        assert path.read_bytes() == DATA
        assert os.listdir(path.parent) == ["dogs.tar"]

    def test_the_path_may_be_a_string_and_the_digest_in_capitals(
        self, site: Site, path: Path
    ) -> None:
        assert fetch(site.url, str(path), sha256=digest_of(DATA).upper()) == path

    def test_an_empty_file(self, site: Site, path: Path) -> None:
        site.data = b""
        assert fetch(site.url, path).read_bytes() == b""

    @pytest.mark.parametrize("known", [{}, {"sha256": digest_of(DATA)}, {"size": len(DATA)}])
    def test_what_is_there_is_not_fetched_again(
        self, site: Site, path: Path, known: dict[str, Any]
    ) -> None:
        fetch(site.url, path)
        site.requests.clear()
        part_of(path).mkdir()  # nothing can be written
        assert fetch(site.url, path, **known) == path
        assert site.requests == []

    @pytest.mark.parametrize("known", [{"sha256": digest_of(DATA)}, {"size": len(DATA)}])
    def test_what_is_there_but_wrong_is_fetched_again(
        self, site: Site, path: Path, known: dict[str, Any]
    ) -> None:
        path.parent.mkdir()
        path.write_bytes(OTHER)
        assert fetch(site.url, path, **known).read_bytes() == DATA

    def test_without_a_checksum_a_line_says_what_was_found(
        self, site: Site, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fetch(site.url, path)
        (line,) = capsys.readouterr().out.splitlines()
        assert digest_of(DATA) in line
        assert "not checked" in line

    def test_with_a_checksum_nothing_is_printed(
        self, site: Site, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fetch(site.url, path, sha256=digest_of(DATA))
        assert capsys.readouterr().out == ""

    def test_wrong_bytes_are_thrown_away_and_the_old_file_stays(
        self, site: Site, path: Path
    ) -> None:
        path.parent.mkdir()
        path.write_bytes(b"old")
        site.data = OTHER
        wanted = digest_of(DATA)
        failing(site.url, path, site.url, wanted, digest_of(OTHER), sha256=wanted)
        assert path.read_bytes() == b"old"
        assert os.listdir(path.parent) == ["dogs.tar"]
        site.data = DATA
        assert fetch(site.url, path, sha256=wanted).read_bytes() == DATA

    def test_a_size_other_than_expected_is_an_error_before_the_body(
        self, site: Site, path: Path
    ) -> None:
        failing(site.url, path, site.url, f"{len(DATA):,}", "17", size=17)
        assert not path.exists()
        assert part_of(path).stat().st_size == 0

    def test_bytes_are_kept_as_the_server_has_them(self, site: Site, path: Path) -> None:
        site.data = gzip.compress(DATA)
        site.headers["Content-Encoding"] = "gzip"  # what some servers say of every .tar.gz
        assert fetch(site.url, path).read_bytes() == site.data
        ((_, asked),) = site.requests
        assert asked["Accept-Encoding"] == "identity"  # others would compress it on the way


class TestGoingOn:
    @pytest.mark.parametrize("validators", [("ETag",), ("Last-Modified",)])
    def test_only_the_rest_is_asked_for(
        self, site: Site, path: Path, validators: tuple[str, ...]
    ) -> None:
        site.headers = {name: site.headers[name] for name in validators}
        broken_off(site, path)
        assert fetch(site.url, path, sha256=digest_of(DATA)).read_bytes() == DATA
        assert site.sent == len(DATA) - HALF
        assert os.listdir(path.parent) == ["dogs.tar"]

    def test_a_killed_download_goes_on(self, site: Site, path: Path) -> None:
        site.faults = [("hold", 4 * CHUNK)]
        code = (
            "import sys\n"
            "from dogbreed.data import fetch\n"
            "class Telling(fetch.tqdm):\n"
            "    def update(self, n=1):\n"
            "        print('written', flush=True)\n"
            "fetch.tqdm = Telling\n"
            "fetch.fetch(*sys.argv[1:])\n"
        )
        command = [sys.executable, "-c", code, site.url, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline() == "written\n"
            process.kill()
        came = part_of(path).stat().st_size
        assert 2 * CHUNK <= came <= 4 * CHUNK
        site.sent = 0
        assert fetch(site.url, path, sha256=digest_of(DATA)).read_bytes() == DATA
        assert site.sent == len(DATA) - came

    @pytest.mark.parametrize(("if_range", "silent"), [(True, False), (False, False), (True, True)])
    def test_a_file_that_has_changed_is_fetched_anew(
        self, site: Site, path: Path, if_range: bool, silent: bool
    ) -> None:
        broken_off(site, path)
        site.data, site.headers["ETag"] = OTHER, '"v2"'
        site.if_range, site.silent = if_range, silent
        assert fetch(site.url, path).read_bytes() == OTHER

    def test_a_file_that_changes_while_the_line_breaks_is_fetched_anew(
        self, site: Site, path: Path
    ) -> None:
        site.faults = [("hold", HALF)]
        with ThreadPoolExecutor() as pool:
            fetched = pool.submit(fetch, site.url, path)
            assert site.held.wait(60)
            site.data, site.headers["ETag"] = OTHER, '"v2"'
            site.release.set()
            assert fetched.result(60).read_bytes() == OTHER

    def test_a_server_that_knows_no_ranges_sends_all_of_it(self, site: Site, path: Path) -> None:
        broken_off(site, path)
        site.ranges = False
        assert fetch(site.url, path).read_bytes() == DATA

    @pytest.mark.parametrize("shift", [10, -10])
    def test_a_range_from_elsewhere_is_not_appended(
        self, site: Site, path: Path, shift: int
    ) -> None:
        broken_off(site, path)
        site.shift = shift
        assert fetch(site.url, path).read_bytes() == DATA

    def test_a_range_that_ends_early_is_asked_for_again(self, site: Site, path: Path) -> None:
        broken_off(site, path)
        site.most = CHUNK
        assert fetch(site.url, path).read_bytes() == DATA
        assert site.sent == len(DATA) - HALF

    @pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"v1"'}])
    def test_without_a_way_to_tell_versions_apart_it_begins_anew(
        self, site: Site, path: Path, headers: dict[str, str]
    ) -> None:
        site.headers = headers
        broken_off(site, path)
        site.data = OTHER
        assert fetch(site.url, path).read_bytes() == OTHER

    @pytest.mark.parametrize("notes", [None, b"", b"{}", b"[1, 2, 3]", b'["x"]'])
    def test_a_part_of_unknown_origin_is_not_gone_on_with(
        self, site: Site, path: Path, notes: bytes | None
    ) -> None:
        path.parent.mkdir()
        part_of(path).write_bytes(OTHER[:HALF])
        if notes is not None:
            Path(f"{part_of(path)}.json").write_bytes(notes)
        assert fetch(site.url, path).read_bytes() == DATA

    def test_a_part_from_another_address_is_not_gone_on_with(self, site: Site, path: Path) -> None:
        broken_off(site, path)
        site.data = OTHER  # with the same ETag
        assert fetch(f"{site.url}?other", path).read_bytes() == OTHER

    def test_a_part_that_is_whole_already_is_only_renamed(self, site: Site, path: Path) -> None:
        path.mkdir(parents=True)  # in the way
        failing(site.url, path, str(path))
        path.rmdir()
        site.sent = 0
        assert fetch(site.url, path, sha256=digest_of(DATA)).read_bytes() == DATA
        assert site.sent == 0

    def test_a_part_that_is_too_long_is_fetched_anew(self, site: Site, path: Path) -> None:
        broken_off(site, path)
        with part_of(path).open("ab") as part:
            part.write(OTHER)
        assert fetch(site.url, path).read_bytes() == DATA

    def test_the_bar_begins_with_what_is_there(
        self, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        broken_off(site, path)
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        fetch(site.url, path)
        shown = [int(percent) for percent in re.findall(r"(\d+)%", terminal.getvalue())]
        assert shown[0] in {49, 50}
        assert shown[-1] == 100
        assert "dogs.tar" in terminal.getvalue()


class TestFaults:
    @pytest.mark.parametrize("how", ["close", "reset", "hold"])
    @pytest.mark.parametrize("length", [True, False])
    def test_a_body_that_breaks_off_is_gone_on_with(
        self, site: Site, path: Path, how: str, length: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch_module, "TIMEOUTS", (10.0, 2.0))
        site.length, site.faults = length, [(how, HALF), (how, CHUNK)]
        assert fetch(site.url, path, size=len(DATA)).read_bytes() == DATA
        assert len(site.requests) > 1
        assert not site.overdue

    def test_what_came_before_the_break_is_not_sent_again(self, site: Site, path: Path) -> None:
        site.faults = [("close", HALF), ("close", CHUNK)]
        fetch(site.url, path)
        assert site.sent == len(DATA)
        starts = [headers.get("Range") for _, headers in site.requests]
        assert starts == [None, f"bytes={HALF}-", f"bytes={HALF + CHUNK}-"]

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_a_server_out_of_breath_is_asked_again(
        self, site: Site, path: Path, status: int
    ) -> None:
        site.faults = [("status", status)] * (retries.ATTEMPTS - 1)
        assert fetch(site.url, path).read_bytes() == DATA

    def test_a_server_that_never_recovers_is_an_error_after_all_attempts(
        self, site: Site, path: Path
    ) -> None:
        site.faults = [("status", 503)] * 100
        failing(site.url, path, site.url, "503", "--path")
        assert len(site.requests) == retries.ATTEMPTS

    def test_progress_begins_the_count_of_attempts_anew(
        self, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "ATTEMPTS", 2)
        site.faults = [("close", CHUNK), ("status", 503)] * 8
        assert fetch(site.url, path).read_bytes() == DATA

    def test_beginning_anew_is_no_progress(self, site: Site, path: Path) -> None:
        site.ranges, site.faults = False, [("close", HALF), ("close", CHUNK)] * 50
        failing(site.url, path, site.url, "--path")
        assert len(site.requests) == 1 + retries.ATTEMPTS

    def test_pauses_grow_and_stay_short(
        self, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr(fetch_module, "time", SimpleNamespace(sleep=pauses.append))
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.05)
        site.faults = [("status", 503)] * (retries.ATTEMPTS - 1)
        fetch(site.url, path)
        assert len(pauses) == retries.ATTEMPTS - 1
        longest = [min(0.1 * 2**k, retries.LONGEST_PAUSE) for k in range(len(pauses))]
        assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (401, ["denied", "credentials", "rules"]),
            (403, ["denied", "credentials", "rules"]),
            (404, ["no such file", "--path"]),
            (410, ["no such file", "--path"]),
        ],
    )
    def test_a_refusal_says_what_to_do_and_is_not_repeated(
        self, site: Site, path: Path, status: int, words: list[str]
    ) -> None:
        site.faults = [("status", status)]
        failing(site.url, path, site.url, str(status), *words, auth=("me", "s3cret"))
        assert len(site.requests) == 1

    @pytest.mark.usefixtures("once")
    def test_nobody_there(self, site: Site, path: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/dogs.tar?signature=s3cret"
            error = failing(url, path, url, "refused", "--path")
        assert str(error).count("s3cret") == 1  # in the address that was asked for

    @pytest.mark.usefixtures("once", "site")
    def test_no_such_host(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: Any, **__: Any) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        url = "https://dogs.invalid/dogs.tar"
        failing(url, path, url, "not known", "--path")

    @pytest.mark.parametrize("url", ["ftp://x/dogs.tar", "file:///dogs.tar", "dogs.tar", ""])
    def test_other_schemes_are_refused(self, path: Path, url: str) -> None:
        with pytest.raises(BadInput, match="not an address of http or https"):
            fetch(url, path)
        assert not path.parent.exists()

    @pytest.mark.parametrize("url", ["http://", "http://[/x", "https:///dogs.tar", "http://x:y/"])
    def test_an_address_that_is_none_is_an_error_of_one_line(
        self, path: Path, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch_module, "time", None)  # there is no second try
        failing(url, path, url)

    def test_a_full_disk_is_an_error_and_what_came_is_kept(self, site: Site, path: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, hard))
        try:
            error = failing(site.url, path, str(path), "kept")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert isinstance(error.__cause__, OSError)
        assert error.__cause__.errno == errno.EFBIG
        assert len(site.requests) == 1
        came = part_of(path).stat().st_size
        site.sent = 0
        assert fetch(site.url, path).read_bytes() == DATA
        assert 0 < site.sent == len(DATA) - came < len(DATA)

    def test_a_file_in_place_of_a_folder_is_an_error(self, site: Site, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        failing(site.url, tmp_path / "file" / "dogs.tar", str(tmp_path / "file"))


class TestRedirects:
    def test_they_are_followed_also_when_going_on(self, site: Site, path: Path) -> None:
        site.moved["/dogs.tar"] = "/elsewhere"
        broken_off(site, path)
        assert fetch(site.url, path).read_bytes() == DATA
        assert site.sent == len(DATA) - HALF

    def test_credentials_go_to_the_host_that_was_asked_only(self, site: Site, path: Path) -> None:
        site.moved["/dogs.tar"] = "/near"
        site.moved["/near"] = f"http://localhost:{site.server_port}/far"
        fetch(site.url, path, auth=("me", "s3cret"))
        sent = {where: "Authorization" in headers for where, headers in site.requests}
        assert sent == {"/dogs.tar": True, "/near": True, "/far": False}

    def test_a_loop_is_an_error_and_not_repeated(self, site: Site, path: Path) -> None:
        site.moved["/dogs.tar"] = "/dogs.tar"
        failing(site.url, path, site.url, "redirects")
        assert len(site.requests) == 31

    def test_they_lead_to_http_only(self, site: Site, path: Path) -> None:
        site.moved["/dogs.tar"] = "file:///etc/passwd"
        failing(site.url, path, site.url)
        assert len(site.requests) == 1


class TestLock:
    def test_of_two_that_fetch_one_file_at_once_one_gives_up(self, site: Site, path: Path) -> None:
        site.faults = [("hold", HALF)]
        with ThreadPoolExecutor() as pool:
            first = pool.submit(fetch, site.url, path)
            assert site.held.wait(60)
            failing(site.url, path, str(path), "another process")
            site.release.set()
            assert first.result(60).read_bytes() == DATA
        assert site.sent == len(DATA)

    def test_a_lock_on_what_was_renamed_meanwhile_does_not_count(
        self, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def as_the_other_ends(part: Any, how: int) -> None:
            os.replace(part_of(path), path)
            fcntl.flock(part, how)

        broken_off(site, path)
        other = SimpleNamespace(flock=as_the_other_ends, LOCK_EX=0, LOCK_NB=fcntl.LOCK_SH)
        monkeypatch.setattr(fetch_module, "fcntl", other)
        failing(site.url, path, str(path), "another process", sha256=digest_of(DATA))
        assert path.read_bytes() == DATA[:HALF]
        assert site.requests == []

    def test_what_another_has_just_ended_is_not_fetched_again(
        self, site: Site, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def after_the_other_ended(part: Any, how: int) -> None:
            path.write_bytes(DATA)

        other = SimpleNamespace(flock=after_the_other_ended, LOCK_EX=0, LOCK_NB=0)
        monkeypatch.setattr(fetch_module, "fcntl", other)
        assert fetch(site.url, path, sha256=digest_of(DATA)) == path
        assert os.listdir(path.parent) == ["dogs.tar"]
        assert site.requests == []


class TestKaggleCredentials:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Give a home without anything in it, and no variables."""
        for name in ("USERNAME", "KEY", "CONFIG_DIR"):
            monkeypatch.delenv(f"KAGGLE_{name}", raising=False)
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    def store(self, folder: Path, content: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kaggle.json").write_text(json.dumps(content))

    def test_none_are_none(self) -> None:
        assert kaggle_credentials() is None

    def test_variables_come_before_the_file(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.store(home / ".kaggle", {"username": "file", "key": "1"})
        monkeypatch.setenv("KAGGLE_USERNAME", "env")
        assert kaggle_credentials() == ("file", "1")  # half of them is not enough
        monkeypatch.setenv("KAGGLE_KEY", "2")
        assert kaggle_credentials() == ("env", "2")

    def test_the_file_is_looked_for_where_the_official_client_does(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for k, folder in enumerate([".config/kaggle", "xdg/kaggle", ".kaggle", "own"]):
            self.store(home / folder, {"username": "me", "key": str(k)})
            if folder == "xdg/kaggle":
                monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
            if folder == "own":
                monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "own"))
            assert kaggle_credentials() == ("me", str(k))
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "none"))
        assert kaggle_credentials() is None

    @pytest.mark.parametrize("content", [[], {"key": "s3cret"}, {"username": 1, "key": "s3cret"}])
    def test_a_damaged_file_is_an_error_that_does_not_show_the_key(
        self, home: Path, content: object, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.store(home / ".kaggle", content)
        with pytest.raises(BadInput) as caught:
            kaggle_credentials()
        assert str(home / ".kaggle" / "kaggle.json") in str(caught.value)
        assert "s3cret" not in str(caught.value) + "".join(capsys.readouterr())

    def test_a_file_that_is_no_json_is_an_error_that_does_not_show_the_key(
        self, home: Path
    ) -> None:
        (home / ".kaggle").mkdir()
        (home / ".kaggle" / "kaggle.json").write_text("key=s3cret")
        with pytest.raises(BadInput) as caught:
            kaggle_credentials()
        assert "s3cret" not in str(caught.value)
