"""Copy a directory of many small chunks to S3, or zip it to S3: compare shardedstore with s5cmd and rclone.

    python -m benchmarks.bench_cloud

The server is SeaweedFS on this machine, with its data in memory; it shares the processors. Each run has a separate
bucket. A proxy counts the requests, in a run that is not timed.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import obstore

from benchmarks.harness import Subject, Target, circumstances, measure, parser, report, table, working_folder
from benchmarks.layouts import SmallChunks
from benchmarks.ours import BareTasks, OnDask, workers
from benchmarks.servers import FaultProxy, Place, S3Server, new_bucket, s3_server
from benchmarks.uploaders import Rclone, S5cmd


def _copy_to(out: Place) -> Any:
    from shardedstore.transforms import CopyTo

    return CopyTo(out.url, storage_options={"endpoint": out.endpoint})


def _to_zip(out: Place) -> Any:
    from shardedstore.transforms import ToZip

    return ToZip(out.url, storage_options={"endpoint": out.endpoint})


SINKS = {"CopyTo": _copy_to, "ToZip": _to_zip}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the tables."""
    options = parser("bench_cloud", __doc__, rounds=5, shards=4, chunks=2500)
    chosen = options.parse_args(arguments)
    layout = SmallChunks(shards=chosen.shards, chunks=chosen.chunks)

    with (
        working_folder(chosen, (1 << 30) + 4 * layout.payload) as folder,
        s3_server(folder / "s3") as server,
        workers() as pool,
    ):
        s5cmd, rclone = S5cmd(), Rclone()
        copy_bare, zip_bare = (BareTasks(sink, pool, f"{name}, bare tasks") for name, sink in SINKS.items())
        copy_dask, zip_dask = (OnDask(sink, f"{name} on Dask") for name, sink in SINKS.items())
        subjects: list[Subject[Place]] = [s5cmd, rclone, copy_bare, copy_dask, zip_bare, zip_dask]
        targets = [
            *(Target(s.name, (s5cmd.name, rclone.name), 0.8, "<= 0.8 x") for s in (copy_bare, copy_dask)),
            *(Target(s.name, s5cmd.name, 1 / 5, ">= 5 x faster") for s in (zip_bare, zip_dask)),
        ]
        print(f"{layout}, to S3; {circumstances(chosen)}\n")
        layout.write(source := folder / "source.zarr")
        check = partial(_check, Counter(layout.checksums(source)), layout.chunk_bytes)
        seconds, missing = measure(subjects, source, lambda: new_bucket(server), check, chosen.rounds)
        counts = {
            s.name: _requests(s, source, server) for s in (s5cmd, rclone, copy_dask, zip_dask) if s.name in seconds
        }
    report(seconds, missing, targets)
    print("\nrequests: " + "; ".join(f"{name} {count:,}" for name, count in counts.items()) + "\n")
    fewer = Target(zip_dask.name, s5cmd.name, 1 / 100, ">= 100 x fewer")
    table(
        ("requests of", "against", "are", "must be", "reached"),
        [fewer.line({name: [float(count)] for name, count in counts.items()})],
    )


def _requests(subject: Subject[Place], source: Path, server: S3Server) -> int:
    with new_bucket(server) as out, FaultProxy(server.endpoint) as proxy:
        subject.run(source, out._replace(endpoint=proxy.url))
        return len(proxy.log)


def _check(expected: Counter[int], size: int, out: Place) -> str | None:
    same = Counter(_checksums(out, size)) == expected
    return None if same else "what it wrote does not hold the chunks of the source"


def _checksums(out: Place, size: int) -> Iterator[int]:
    """The CRC-32 of each object or zip member with the size of a chunk."""
    found = [(f["path"], f["size"]) for batch in obstore.list(out.client) for f in batch]
    with ThreadPoolExecutor(8) as pool:
        paths = [path for path, nbytes in found if nbytes == size or path.endswith(".zip")]
        for path, data in zip(paths, pool.map(lambda path: obstore.get(out.client, path).bytes(), paths), strict=True):
            if not path.endswith(".zip"):
                yield zlib.crc32(data)
                continue
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for entry in archive.infolist():
                    if entry.file_size == size:
                        yield zlib.crc32(archive.read(entry))


if __name__ == "__main__":
    main()
