"""Zip many small chunks: compare shardedstore with tar, Info-ZIP and the original shardedstore 0.3.1.

    python -m benchmarks.bench_zip

All subjects run in turns (A B C, A B C, ...) on a memory file system, so that neither a disk nor a busy minute of the
machine decides. The tables show medians and the targets. All data is removed at the end; only the environment of 0.3.1
stays, in `.cache/`.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Subject, Target, circumstances, measure, new_folder, parser, report, working_folder
from benchmarks.layouts import SmallChunks
from benchmarks.ours import WORKERS, BareTasks, OnDask, to_zip, workers
from benchmarks.peers import InfoZip, Legacy, PlainLoop, Tar


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the tables."""
    options = parser("bench_zip", __doc__, rounds=7, shards=32, chunks=1000)
    options.add_argument(
        "--no-legacy", action="store_true", help="leave out 0.3.1, whose environment has to be made first"
    )
    chosen = options.parse_args(arguments)
    layout = SmallChunks(shards=chosen.shards, chunks=chosen.chunks)

    with working_folder(chosen, 3 * layout.payload) as folder, workers() as pool:
        tar, infozip, legacy = Tar(layout, WORKERS), InfoZip(layout, WORKERS), Legacy(layout)
        bare, dask = BareTasks(to_zip, pool), OnDask(to_zip)
        subjects: list[Subject[Path]] = [tar, infozip, legacy, PlainLoop(layout, pool), bare, dask]
        if chosen.no_legacy:
            subjects.remove(legacy)
        targets = [
            Target(bare.name, tar.name, 1.25, "<= 1.25 x"),
            Target(dask.name, tar.name, 1.6, "<= 1.6 x"),
            Target(dask.name, legacy.name, 1 / 4, ">= 4 x faster"),
            Target(dask.name, infozip.name, 1 / 2, ">= 2 x faster"),
        ]
        print(f"{layout}; {circumstances(chosen)}\n")
        layout.write(source := folder / "source.zarr")
        check = partial(_check, Counter(layout.checksums(source)), layout.chunk_bytes)
        results = measure(subjects, source, lambda: new_folder(folder / "out"), check, chosen.rounds)
    report(*results, targets)


def _check(expected: Counter[int], size: int, out: Path) -> str | None:
    same = Counter(_checksums(out, size)) == expected
    return None if same else "what it wrote does not hold the chunks of the source"


def _checksums(out: Path, size: int) -> Iterator[int]:
    """The CRC-32 of each member with the size of a chunk in the archives below `out`."""
    for path in out.rglob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.file_size == size:
                    yield zlib.crc32(archive.read(entry))
    for path in out.rglob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and member.size == size:
                    yield zlib.crc32(file.read())
    for path in out.rglob("*.raw"):
        data = memoryview(path.read_bytes())
        for start in range(0, len(data), size):
            yield zlib.crc32(data[start : start + size])


if __name__ == "__main__":
    main()
