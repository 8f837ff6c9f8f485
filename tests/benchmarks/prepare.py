"""Preparing a competition's zip into packed shards on gs://: time, and memory as pictures grow.

    nox -s bench -- prepare --photos DIR [--times 10] [--engine ray]

`--photos` holds one folder per breed. They are laid out as Kaggle's zip, packed to the tests'
double of Google Cloud Storage on loopback, and looked at while that happens. `--times N` does the
same with each picture N times, under N ids and with N different last bytes.
"""

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from pathlib import Path

from tests.doubles.gcs import FakeGCS

TEST_SHARE = 10  # one of so many pictures is the competition's test picture


def kaggle_zip(photos: Path, target: Path, times: int) -> int:
    """The photographs as the competition's zip; how many."""
    labels: list[tuple[str, str]] = []
    breeds = sorted(folder.name for folder in photos.iterdir())
    tests = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for breed in breeds:
            for path in sorted((photos / breed).iterdir()):
                data = path.read_bytes()
                for k in range(times):
                    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{breed}/{path.name}/{k}").hex
                    folder = "test" if len(labels) % TEST_SHARE == TEST_SHARE - 1 else "train"
                    archive.writestr(f"{folder}/{name}.jpg", data + bytes([k]) * (k > 0))
                    labels.append((name, breed))
                    if folder == "test":
                        tests.append(labels.pop()[0])
                        labels.append((tests[-1], ""))
        rows = [row for row in labels if row[1]]
        archive.writestr("labels.csv", table([("id", "breed"), *rows]))
        uniform = [str(1 / len(breeds))] * len(breeds)
        sample = [("id", *breeds), *((name, *uniform) for name in tests)]
        archive.writestr("sample_submission.csv", table(sample))
    return len(labels)


def table(rows: list[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def resident(pid: int) -> tuple[int, int]:
    """Memory in bytes of a process and of its descendants that no other process shares with it."""
    own = everyone = 0
    for number in [pid, *descendants(pid)]:
        try:
            text = Path(f"/proc/{number}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        private = sum(
            int(line.split()[1]) * 1024
            for line in text.splitlines()
            if line.startswith(("Private_", "Shared_Dirty"))
        )
        everyone += private
        own = private if number == pid else own
    return own, everyone


def descendants(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(word) for word in task.read_text().split()]
        except OSError:
            continue
    return [number for child in children for number in [child, *descendants(child)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--shard_size", default="64MB")
    parser.add_argument("--engine", default="local")
    options = parser.parse_args()
    scratch = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=scratch) as folder, FakeGCS(root=Path(folder)) as gcs:
        source = Path(folder) / "dog-breed-identification.zip"
        n = kaggle_zip(options.photos, source, options.times)
        print(f"{n:,} pictures, {source.stat().st_size / 1e6:,.0f} MB zipped", flush=True)
        words = f"prepare --source kaggle --path {source} --out {gcs.bucket()}/dogs"
        words += f" --shard_size {options.shard_size} --engine {options.engine}"
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "dogbreed", *words.split()],
            env=os.environ | gcs.env | {"XDG_CACHE_HOME": f"{folder}/cache"},
        )
        peaks = [0, 0]
        while process.poll() is None:
            peaks = [max(p, now) for p, now in zip(peaks, resident(process.pid), strict=True)]
            time.sleep(0.2)
        assert process.returncode == 0
        print(
            f"| {n:,} | {time.monotonic() - begun:.0f} s | {peaks[0] / 1e6:,.0f} MB"
            f" | {peaks[1] / 1e6:,.0f} MB |  (pictures, time, peak of the main process, of all)"
        )


if __name__ == "__main__":
    main()
