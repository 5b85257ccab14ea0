"""Convert thousands of chunk files of real ocean and climate data to a few zips, and open them as the same Zarr.

Run it with ``make demo``, or by hand after ``pip install '.[demo]'``::

    python examples/demo.py [--folder demo] [--workers 2]
"""

import argparse
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import iris_sample_data
import xarray as xr
from dask.utils import format_bytes
from distributed import Client, LocalCluster

from shardedstore import ShardedStore
from shardedstore.transforms import ToZip

# The groups of the Zarr: the source file of each, and the chunks of its largest variables.
DATASETS = {
    "ocean/surface": ("ostia_monthly.nc", {"time": 1, "latitude": 9, "longitude": 54}),
    "ocean/orca": ("orca2_votemper.nc", {"dim0": 37, "dim1": 45}),
    "air/a1b": ("A1B_north_america.nc", {"time": 1, "latitude": 19, "longitude": 25}),
    "air/e1": ("E1_north_america.nc", {"time": 1, "latitude": 19, "longitude": 25}),
}

# The division of the Zarr. The rest, such as the coordinates of the ocean's surface, stays in the base.
SHARDS = {
    "ocean/surface/surface_temperature": {"time": 12},  # a year of months in a shard
    "ocean/orca": "whole",  # a small group is one shard
    "air/*/air_temperature": {"time": 60},  # the same for all climate scenarios
}

# The code of a reader, which runs in an independent process.
READER = """
import sys, xarray as xr
from shardedstore import ShardedStore

source, result = sys.argv[1:]
before = xr.open_datatree(source, engine="zarr")
after = xr.open_datatree(ShardedStore.load(result), engine="zarr")
if set(before.groups) != set(after.groups):
    sys.exit(f"the groups differ: {before.groups}, {after.groups}")
for group in before.groups:
    xr.testing.assert_identical(before[group].to_dataset().load(), after[group].to_dataset().load())
    if before[group].data_vars:
        print(f"  {group}: {len(before[group].variables)} variables identical")
"""


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything is written (default: demo)")
    parser.add_argument("--workers", type=int, default=2, help="Dask worker processes (default: 2)")
    options = parser.parse_args()
    source, result = options.folder / "source.zarr", options.folder / "zips"
    sys.stdout.reconfigure(line_buffering=True)  # keep the order of this output and of the progress on stderr
    start_clean(options.folder)

    print(f"1. Writing ocean and climate data as one ordinary Zarr: {source}")
    write_source(source)
    print(f"   {describe(source)}")

    print(f"2. Zipping it shard by shard, on {options.workers} worker processes")
    started = time.perf_counter()
    store = ShardedStore.partition(source, shards=SHARDS)
    with start_cluster(options.workers) as cluster, Client(cluster):
        store.map_shards(ToZip(result), progress=True)
    print(f"   {time.perf_counter() - started:.1f} s with the start of the cluster")

    print("3. Opening it with xarray in a new process, and comparing every variable with the source")
    subprocess.run([sys.executable, "-c", READER, source, result], check=True)

    print(f"\nbefore: {describe(source)}")
    print(f"after:  {describe(result)}")
    print(f"All is identical. Open it with ShardedStore.load({str(result.resolve())!r}), or look at it:")
    print(f"  {Path(sys.executable).parent / 'shardedstore'} info {result}")


def start_clean(folder: Path) -> None:
    """Remove only the files of an earlier demonstration."""
    marker = folder / ".made-by-the-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        sys.exit(f"{folder} holds something else: name an empty or a new folder with --folder")
    for made_before in ("source.zarr", "zips"):
        shutil.rmtree(folder / made_before, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()


def write_source(path: Path) -> None:
    """Write the datasets as groups of one Zarr."""
    tree = xr.DataTree()
    for group, (file, chunks) in DATASETS.items():
        dataset = xr.open_dataset(Path(iris_sample_data.path) / file, decode_times=False)
        for variable in dataset.variables.values():
            variable.encoding.clear()  # drop the encoding of the NetCDF file
            if variable.ndim > 1:
                variable.encoding["chunks"] = [chunks.get(dim, n) for dim, n in variable.sizes.items()]
        tree[group] = dataset
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        tree.to_zarr(path, zarr_format=3, consolidated=True)


def start_cluster(workers: int) -> LocalCluster:
    """Start worker processes on this machine; any other Dask cluster works too."""
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")


def describe(folder: Path) -> str:
    """Count the files in a folder, and their disk usage."""
    sizes = [path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes):,} files, {format_bytes(sum(sizes))} on the disk"


if __name__ == "__main__":  # the worker processes import this file as well
    main()
