"""Recompress real climate data, zip it directly to an object store, and open it from there with xarray.

The credentials and the endpoint come from the environment, as for any S3 client::

    pip install '.[demo]'
    export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=...
    python examples/to_cloud.py s3://bucket/air-temperature

Zips are never on the disk of a worker: they are uploaded in parts while they are made.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import iris_sample_data
import xarray as xr
from dask.utils import format_bytes
from distributed import Client, LocalCluster

from shardedstore import ShardedStore
from shardedstore.transforms import Recompress, ToZip

# The code of a reader, which runs in an independent process; the first chunk needs a few requests.
READER = """
import sys, xarray as xr
from shardedstore import ShardedStore

source, url = sys.argv[1:]
with xr.open_zarr(source) as before, xr.open_zarr(ShardedStore.load(url)) as after:
    xr.testing.assert_identical(before.load(), after.load())
    codec = after.air_temperature.encoding["compressors"][0]
    print(f"   identical; {after.air_temperature.sizes['time']} months, compressed with {type(codec).__name__}")
"""


def main() -> None:
    """Run the workflow."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("url", help="where to: s3://bucket/folder, gs://..., az://... or a local folder")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the source is written (default: demo)")
    parser.add_argument("--workers", type=int, default=2, help="Dask worker processes (default: 2)")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)

    source = options.folder / "air-temperature.zarr"
    if not (source / "zarr.json").exists():
        write_source(source)
    print(f"1. A Zarr of {sum(file.is_file() for file in source.rglob('*')):,} files: {source}")

    print(f"2. Recompressing and zipping it to {options.url}, on {options.workers} worker processes")
    store = ShardedStore.partition(source, shards={"air_temperature": {"time": 60}})
    with start_cluster(options.workers) as cluster, Client(cluster):
        done = store.map_shards(Recompress("zstd", level=5), ToZip(options.url)).summary
    before = f", {done.skipped} were done before" if done.skipped else "; run it again, and nothing is done twice"
    print(f"   {done.done} zips done now ({format_bytes(done.nbytes)}){before}")

    print("3. Opening it with xarray in a new process, and comparing every value with the source")
    subprocess.run([sys.executable, "-c", READER, source, options.url], check=True)


def start_cluster(workers: int) -> LocalCluster:
    """Start worker processes on this machine; any other Dask cluster works too."""
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")


def write_source(path: Path) -> None:
    """Write a climate scenario as a Zarr of many small chunks."""
    with xr.open_dataset(Path(iris_sample_data.path) / "A1B_north_america.nc", decode_times=False) as dataset:
        for variable in dataset.variables.values():
            variable.encoding.clear()  # drop the encoding of the NetCDF file
        dataset.air_temperature.encoding["chunks"] = (6, 19, 25)
        dataset.to_zarr(path, zarr_format=3, consolidated=False)


if __name__ == "__main__":  # the worker processes import this file as well
    main()
