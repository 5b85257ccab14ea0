"""``shardedstore serve``: a result over HTTP, read by other clients."""

import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import dask
import numpy as np
import pytest
import zarr
from obstore.store import HTTPStore

from shardedstore import ShardedStore
from shardedstore.transforms import ToZip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info < (3, 12), reason="zarr-http-server needs Python 3.12"),
]
ORIGIN = "https://viewer.example.org"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    root = zarr.create_group(folder / "a.zarr", attributes={"title": "demo"})
    root.create_array("inner", data=np.arange(1000), shards=(200,), chunks=(10,))
    root.create_array("t", data=np.arange(96).reshape(12, 8), chunks=(2, 4))
    zarr.consolidate_metadata(folder / "a.zarr")
    with dask.config.set(scheduler="sync"):
        ShardedStore.partition(folder / "a.zarr", {"t": (4, -1)}).map_shards(ToZip(folder / "zips"))
    command = [sys.executable, "-m", "shardedstore", "serve", str(folder / "zips"), "--cors", ORIGIN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            assert process.wait(20) == 0


def request(url, method="GET", **headers):
    with urlopen(Request(url, method=method, headers=headers), timeout=10) as answer:
        return answer.status, dict(answer.headers), answer.read()


def test_a_client_reads_the_result_as_one_zarr(url):
    assert url.startswith("http://127.0.0.1:")
    found = zarr.open_group(ShardedStore.partition(url, []), mode="r")
    assert found.attrs["title"] == "demo"
    np.testing.assert_array_equal(found["t"][:], np.arange(96).reshape(12, 8))


@pytest.mark.parametrize("opened", ["obstore", "fsspec", "shardedstore", "tensorstore"])
def test_clients_read_inner_chunks_by_ranges(opened, url):
    if opened == "tensorstore":
        spec = {"driver": "zarr3", "kvstore": f"{url}inner/"}
        found = pytest.importorskip("tensorstore").open(spec).result()[395:405].read().result()
    else:
        client = HTTPStore(url, client_options={"allow_http": True})
        stores = {
            "obstore": lambda: zarr.storage.ObjectStore(client, read_only=True),
            "fsspec": lambda: url,
            "shardedstore": lambda: ShardedStore.partition(url, []),
        }
        found = zarr.open_group(stores[opened](), mode="r")["inner"][395:405]
    np.testing.assert_array_equal(found, np.arange(395, 405))


def test_ranges_and_origins(url):
    whole = request(f"{url}t/c/0/0", Origin=ORIGIN)
    part = request(f"{url}t/c/0/0", Origin=ORIGIN, Range="bytes=2-5")
    assert (whole[0], part[0]) == (200, 206)
    assert part[2] == whole[2][2:6]
    assert part[1]["content-range"] == f"bytes 2-5/{len(whole[2])}"
    assert whole[1]["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in request(f"{url}t/c/0/0", Origin="https://other.example.org")[1]


def test_a_value_that_the_client_has_is_not_sent_again(url):
    status, fields, data = request(f"{url}t/c/0/0", Origin=ORIGIN)
    assert (status, fields["cache-control"], int(fields["content-length"])) == (200, "no-cache", len(data))
    other = request(f"{url}t/c/0/1")[1]["etag"]
    assert other != fields["etag"]
    assert request(f"{url}t/c/0/0", **{"If-None-Match": other})[2] == data
    with pytest.raises(HTTPError, match="HTTP Error 304") as unchanged:
        request(f"{url}t/c/0/0", **{"If-None-Match": f"{other}, {fields['etag']}"}, Origin=ORIGIN)
    assert unchanged.value.headers["etag"] == fields["etag"]
    assert unchanged.value.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "t/c/9/9", 404),
        ("GET", "..%2f..%2fetc/passwd", 404),
        ("PUT", "t/c/0/0", 405),
        ("DELETE", "t/c/0/0", 405),
    ],
)
def test_other_requests_are_refused(url, method, path, status):
    with pytest.raises(HTTPError, match=f"HTTP Error {status}"):
        request(url + path, method)
