"""References to zips in an object store, opened by readers that do not import this package."""

import subprocess
import sys

import dask
import numpy as np
import pytest
import xarray as xr
from servers import ADMIN

from shardedstore import ShardedStore
from shardedstore.transforms import ToZip

pytestmark = [pytest.mark.s3, pytest.mark.slow]

START = """
import sys, warnings
import xarray as xr
warnings.simplefilter("ignore")
url, endpoint, key, secret, original = sys.argv[1:]
"""
END = """
xr.testing.assert_identical(found.load(), xr.open_zarr(original, consolidated=False).load())
assert "shardedstore" not in sys.modules
"""
KERCHUNK = """
client = {"key": key, "secret": secret, "endpoint_url": endpoint}
storage = {"fo": url, "target_options": client, "remote_protocol": "s3", "remote_options": {**client, "asynchronous": True}}
found = xr.open_dataset("reference://", engine="zarr", backend_kwargs={"consolidated": False, "storage_options": storage})
"""
TENSORSTORE = """
import json, fsspec, numpy as np, tensorstore as ts
client = {"key": key, "secret": secret, "endpoint_url": endpoint}
original = xr.open_zarr(original, consolidated=False)
for name in original.variables:
    with fsspec.open(f"{url}/{name}.json", **client) as file:
        spec = json.load(file)
    np.testing.assert_array_equal(ts.open(spec).result()[...].read().result(), original[name].values)
assert "shardedstore" not in sys.modules
"""
GDAL = """
import os, numpy as np
names = {"AWS_S3_ENDPOINT": endpoint.partition("://")[2], "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
os.environ.update(names, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret, AWS_REGION="us-east-1")
import rasterio
path = url.replace("s3://", "/vsis3/")
with rasterio.open(f'ZARR:"/vsikerchunk_json_ref/{{{path}}}":/t2m') as t2m:
    np.testing.assert_array_equal(t2m.read(1), xr.open_zarr(original, consolidated=False).t2m.values)
assert "shardedstore" not in sys.modules
"""
ICECHUNK = """
import icechunk
bucket, _, prefix = url.removeprefix("s3://").partition("/")
credentials = {"access_key_id": key, "secret_access_key": secret}
storage = icechunk.s3_storage(
    bucket=bucket, prefix=prefix, endpoint_url=endpoint, allow_http=True, region="us-east-1", force_path_style=True, **credentials
)
prefixes = icechunk.Repository.fetch_config(storage).virtual_chunk_containers
access = icechunk.containers_credentials(dict.fromkeys(prefixes, icechunk.s3_credentials(**credentials)))
repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
found = xr.open_zarr(repository.readonly_session("main").store, consolidated=False)
"""


def make_zips(bucket, folder, zarr_format):
    values = np.random.default_rng(5).random((32, 20), "f4")
    dataset = xr.Dataset({"t2m": (("time", "y"), values)}, coords={"time": np.arange(32)})
    encoding = {"t2m": {"chunks": (4, 10)}}
    dataset.to_zarr(folder / "a.zarr", zarr_format=zarr_format, encoding=encoding, consolidated=False)
    with dask.config.set(scheduler="sync"):
        return ShardedStore.partition(folder / "a.zarr", {"t2m": (16, -1)}).map_shards(ToZip(f"{bucket.url}/zips ä"))


@pytest.fixture
def zips(bucket, tmp_path):
    return make_zips(bucket, tmp_path, 3)


def run(code, url, s3_server, tmp_path):
    arguments = [url, s3_server.endpoint, ADMIN.key, ADMIN.secret, str(tmp_path / "a.zarr")]
    subprocess.run([sys.executable, "-c", START + code, *arguments], check=True, timeout=60)


def check(code, url, s3_server, tmp_path):
    """Open the references in a new process, and compare all values with the source."""
    run(code + END, url, s3_server, tmp_path)


def test_kerchunk(zips, bucket, s3_server, tmp_path):
    pytest.importorskip("s3fs")
    url = f"{bucket.url}/references.json"
    zips.to_kerchunk(url)
    check(KERCHUNK, url, s3_server, tmp_path)


def test_kerchunk_parquet(bucket, s3_server, tmp_path):
    pytest.importorskip("s3fs")
    url = f"{bucket.url}/references"
    make_zips(bucket, tmp_path, 2).to_kerchunk(url, parquet=True)
    check(KERCHUNK, url, s3_server, tmp_path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_gdal(zarr_format, bucket, s3_server, tmp_path):
    pytest.importorskip("rasterio")
    url = f"{bucket.url}/references.json"
    make_zips(bucket, tmp_path, zarr_format).to_kerchunk(url)
    run(GDAL, url, s3_server, tmp_path)


@pytest.mark.few(1)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_tensorstore(zarr_format, bucket, s3_server, tmp_path, use_environment):
    """The credentials come from the environment, and the server from it or from the specs."""
    pytest.importorskip("tensorstore")
    zips = make_zips(bucket, tmp_path, zarr_format)
    zips.to_tensorstore(f"{bucket.url}/specs")
    run(TENSORSTORE, f"{bucket.url}/specs", s3_server, tmp_path)
    options = {"endpoint": s3_server.endpoint, "region": "us-east-1", "allow_http": True}
    ShardedStore.load(f"{bucket.url}/zips ä", storage_options=options).to_tensorstore(f"{bucket.url}/specs")
    use_environment({**s3_server.environment(), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    run(TENSORSTORE, f"{bucket.url}/specs", s3_server, tmp_path)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="icechunk 2 needs Python 3.12")
def test_icechunk(zips, bucket, s3_server, tmp_path):
    from shardedstore.export.icechunk import create_repository

    url = f"{bucket.url}/repository"
    options = {"endpoint": s3_server.endpoint, "region": "us-east-1", "allow_http": True}
    zips.to_icechunk(create_repository(url, zips, options))
    check(ICECHUNK, url, s3_server, tmp_path)
