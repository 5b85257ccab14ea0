"""Measure exports of references: seconds, processor seconds and peak memory of each format, beside VirtualiZarr.

    python -m benchmarks.bench_export

Each export runs in a process of its own. VirtualiZarr reads the same chunks from one zip, which holds them all.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dask

from benchmarks.harness import circumstances, parser, table, working_folder
from benchmarks.layouts import ARRAY, PARTITION, SmallChunks
from shardedstore import ShardedStore
from shardedstore.transforms import ToZip

SECONDS, PEAK = 60.0, 1024.0
KINDS = {
    "Kerchunk JSON": 3,
    "Kerchunk Parquet": 2,
    "Icechunk": 3,
    "VirtualiZarr, Kerchunk JSON": 3,
    "VirtualiZarr, Icechunk": 3,
}  # with the format of Zarr


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the table."""
    options = parser("bench_export", __doc__, rounds=1, shards=1000, chunks=1000)
    options.add_argument("--one", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    chosen = options.parse_args(arguments)
    if chosen.one:
        _measure(chosen.one[0], Path(chosen.one[1]))
        return
    data = SmallChunks(chosen.shards, chosen.chunks, chunk_bytes=8)
    with working_folder(chosen, chosen.shards * chosen.chunks * 10_000) as folder:
        print(f"{data}; {circumstances(chosen, rounds=1)}\n", flush=True)
        for zarr_format in (2, 3):
            _prepare(data, folder / f"v{zarr_format}", zarr_format)
        rows = [_row(kind, folder / f"v{zarr_format}") for kind, zarr_format in KINDS.items()]
    table(("what", "time", "processor", "peak memory", "must be", "reached"), rows)


def _prepare(data: SmallChunks, folder: Path, zarr_format: int) -> None:
    """Write the Zarr, and from it a folder of zips; for Zarr v3 also one zip."""
    (_write_v3 if zarr_format == 3 else _write_v2)(data, folder / "source.zarr")
    store = ShardedStore.partition(folder / "source.zarr", PARTITION)
    with dask.config.set(scheduler="sync"):
        store.map_shards(ToZip(folder / "zips"))
        if zarr_format == 3:
            store.map_shards(ToZip(folder / "one.zarr.zip"))


def _write_v3(data: SmallChunks, root: Path) -> None:
    data.write(root)
    document = root / ARRAY / "zarr.json"
    document.write_text(json.dumps({**json.loads(document.read_bytes()), "dimension_names": ["y", "x"]}))


def _write_v2(data: SmallChunks, root: Path) -> None:
    import zarr

    zarr.open_group(root, mode="w", zarr_format=2).create_array(
        ARRAY, shape=(data.shards, data.chunks * 8), chunks=(1, 8), dtype="u1", compressors=None
    )
    for row in range(data.shards):
        for column in range(data.chunks):
            (root / ARRAY / f"{row}.{column}").write_bytes(b"%08d" % column)


def _row(kind: str, folder: Path) -> tuple[str, ...]:
    program = [sys.executable, "-m", "benchmarks.bench_export", "--one", kind, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        return kind, "not measured", "-", done.stderr.strip().rpartition("\n")[2][:80], "-", "-"
    wall, seconds, peak = map(float, done.stdout.split()[-3:])
    shown = kind, f"{wall:.1f} s", f"{seconds:.1f} s", f"{peak:.0f} MiB"
    if kind.startswith("VirtualiZarr"):
        return *shown, "-", "-"
    return *shown, f"< {SECONDS:.0f} s, {PEAK:.0f} MiB", "yes" if wall < SECONDS and peak < PEAK else "NO"


def _measure(kind: str, folder: Path) -> None:
    export = _virtualizarr if kind.startswith("VirtualiZarr") else _ours
    run = export(kind, folder)
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(wall, seconds, after.ru_maxrss / 1024)


def _ours(kind: str, folder: Path) -> Callable[[], object]:
    store = ShardedStore.load(folder / "zips")
    if kind == "Icechunk":
        from shardedstore.export.icechunk import create_repository

        return lambda: store.to_icechunk(create_repository(str(folder / "ours"), store))
    is_parquet = kind.endswith("Parquet")
    return lambda: store.to_kerchunk(folder / f"ours.{'parquet' if is_parquet else 'json'}", parquet=is_parquet)


def _virtualizarr(kind: str, folder: Path) -> Callable[[], object]:
    import icechunk
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtualizarr import open_virtual_dataset, parsers

    zipped = getattr(parsers, "ZippedZarrParser")  # noqa: B009 (VirtualiZarr 2.6 has none)

    def run() -> object:
        registry = ObjectStoreRegistry({"file://": LocalStore()})
        found = open_virtual_dataset(f"file://{folder}/one.zarr.zip", registry, zipped(), loadable_variables=[])
        if not kind.endswith("Icechunk"):
            return found.vz.to_kerchunk(str(folder / "theirs.json"), format="json")
        config = icechunk.RepositoryConfig.default()
        files = icechunk.local_filesystem_store(str(folder))
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(f"file://{folder}/", files))
        made = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder / "theirs")), config)
        session = made.writable_session("main")
        found.vz.to_icechunk(session.store)
        return session.commit("references")

    return run


if __name__ == "__main__":
    main()
