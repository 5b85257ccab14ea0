"""The datasets of nights.py, the changes of their sources, and their readers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import obstore
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from shardedstore import ShardedStore

Values = dict[str, np.ndarray]
SHAPE = (32, 32)  # of a time step
SHARDS = {"t": {"time": 4}, "u?": {"time": 4}, "v?": {"time": 4}, "g": "whole"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A Zarr with an array that grows along time, a group that is one shard, and a coordinate in the base."""

    name: str
    to: str = "zip"
    zarr_format: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    is_sharded: bool = False  # by the sharding codec
    is_web: bool = False

    @property
    def decodes(self) -> bool:
        """Whether the job decodes chunks, and so notices damaged ones."""
        return "digest" in self.options or "codec" in self.options

    @property
    def finds_fixes(self) -> bool:
        """Whether the job looks for chunks that were written again."""
        return not self.is_web

    @property
    def is_one_zarr(self) -> bool:
        """Whether the result is one ordinary Zarr: it is changed in place, and only grows."""
        return self.to == "zarr"

    def job(self, source: str, destination: str) -> dict[str, Any]:
        """Return the table of the job."""
        compared = "listing" if self.finds_fixes else "metadata"
        places = {"source": source, "destination": destination}
        return {"name": self.name, **places, "to": self.to, "changed": compared, **self.options}


DIGEST = {"digest": True}
DATASETS = (
    Dataset("climate", options=DIGEST),
    Dataset("copied", "zarr", options={"codec": "zstd:level=1"}),
    Dataset("web", zarr_format=2, options=DIGEST, is_web=True),
    Dataset("plain"),
    Dataset("archive", zarr_format=2, options={**DIGEST, "consolidated": True}),
    Dataset("migrated", zarr_format=2, options={"v3": True, "codec": "zstd:level=5"}),
    Dataset("sharded", options=DIGEST, is_sharded=True),
    Dataset("folders", "zarr:layout=shards", options=DIGEST),
    Dataset("careful", options={"changed": "content", **DIGEST}),
    Dataset("recompressed", options={"codec": "blosc:cname=lz4,clevel=5"}),
)


class Source:
    """The Zarr of a dataset, and the changes that its owner makes."""

    def __init__(self, dataset: Dataset, store: Store) -> None:
        self.dataset, self.store = dataset, store
        self.random = np.random.default_rng(7)
        root = zarr.create_group(store, zarr_format=dataset.zarr_format)
        self._write(root, "t", 10)
        group = root.create_group("g")
        group.create_array("a", data=np.arange(8.0), chunks=(2,))
        root.create_array("levels", data=np.arange(5, dtype="i2"))
        self._consolidate()

    @property
    def root(self) -> zarr.Group:
        """The root, as it is now."""
        return zarr.open_group(self.store, mode="r+", use_consolidated=False)

    def values(self) -> Values:
        """Read all arrays."""
        return read(self.root)

    def grow(self) -> None:
        """Append four time steps."""
        array = self.root["t"]
        length = array.shape[0]
        array.resize((length + 4, *SHAPE))
        array[length:] = self._random(4)
        self._consolidate()

    def fix(self) -> None:
        """Write the first time steps again, if the job looks for this."""
        if self.dataset.finds_fixes:
            self.root["t"][:2] = self._random(2)

    def add(self, name: str = "u") -> None:
        """Add a variable."""
        self._write(self.root, name, 8)
        self._consolidate()

    def rename(self) -> None:
        """Give a variable another name."""
        root = self.root
        values = root["u"][:]
        del root["u"]
        self._write(root, "v", 8, values)
        self._consolidate()

    def rechunk(self) -> None:
        """Write the array with other chunks."""
        root = self.root
        values = root["t"][:]
        del root["t"]
        self._write(root, "t", len(values), values, steps=1)
        self._consolidate()

    @contextmanager
    def damaged(self) -> Iterator[None]:
        """Damage the last chunk of the array."""
        array = self.root["t"]
        last = (array.shape[0] - 1) // (array.shards or array.chunks)[0]
        key = f"t/{array.metadata.encode_chunk_key((last, 0, 0))}"
        contents = self._get(key)
        self._set(key, b"damaged")
        yield
        self._set(key, contents)

    def _write(
        self, root: zarr.Group, name: str, length: int, values: np.ndarray | None = None, steps: int = 2
    ) -> None:
        sharded = {"shards": (steps, *SHAPE), "chunks": (1, *SHAPE)} if self.dataset.is_sharded else {}
        options = {"chunks": (steps, *SHAPE), **sharded}
        names = {"dimension_names": ("time", "y", "x")} if self.dataset.zarr_format == 3 else {}
        array = root.create_array(name, shape=(length, *SHAPE), dtype="f4", **options, **names)
        if not names:
            array.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
        array[:] = self._random(length) if values is None else values

    def _random(self, length: int) -> np.ndarray:
        return self.random.random((length, *SHAPE), dtype="f4")

    def _consolidate(self) -> None:
        if self.dataset.zarr_format == 2:
            zarr.consolidate_metadata(self.store)

    def _get(self, key: str) -> bytes:
        if isinstance(self.store, LocalStore):
            return (self.store.root / key).read_bytes()
        return bytes(obstore.get(self.store.store, key).bytes())

    def _set(self, key: str, contents: bytes) -> None:
        if isinstance(self.store, LocalStore):
            (self.store.root / key).write_bytes(contents)
        else:
            obstore.put(self.store.store, key, contents)


def read(root: zarr.Group) -> Values:
    """Read all arrays of a group, by path."""
    return {path: node[...] for path, node in root.members(max_depth=None) if isinstance(node, zarr.Array)}


def store_at(place: str) -> Store:
    """Open the zarr store of a folder, or of a URL of an object store with the credentials of the environment."""
    if "://" not in place:
        return LocalStore(place)
    return ObjectStore(obstore.store.from_url(place))


@dataclass
class Reader:
    """An open result and the values that it must read."""

    place: str
    root: zarr.Group
    arrays: dict[str, zarr.Array]
    expected: Values

    @classmethod
    def of(cls, dataset: Dataset, place: str, expected: Values) -> Reader:
        """Open the result of a dataset."""
        store = store_at(place) if dataset.is_one_zarr else ShardedStore.load(place)
        root = zarr.open_group(store, mode="r")
        return cls(place, root, {path: root[path] for path in expected}, expected)

    def check(self, later: Values | None = None) -> None:
        """Compare all values; arrays that are changed in place may have later values."""
        for path, values in self.expected.items():
            found = (self.root if later is None else self.arrays)[path][...]
            assert found.shape == values.shape, f"{path!r} of {self.place!r} has the shape {found.shape}"
            right = found == values
            if later is not None and path in later:
                right |= found == later[path][tuple(map(slice, values.shape))]
            assert right.all(), f"{path!r} of {self.place!r} has other values"


class WebServer:
    """A web server of a folder, which can go away and come back, and refuse requests."""

    refused = False

    def __init__(self, folder: Path) -> None:
        server = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def send_head(self) -> Any:
                if server.refused:
                    self.send_error(403)
                    return None
                return super().send_head()

            def log_message(self, *_: object) -> None:
                pass

        self._handler = partial(Handler, directory=os.fspath(folder))
        self._start(0)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _start(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler)
        Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop the server."""
        port = self._server.server_port
        self.close()
        yield
        self._start(port)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse all requests."""
        self.refused = True
        yield
        self.refused = False

    def close(self) -> None:
        """Stop the server, and close its socket."""
        self._server.shutdown()
        self._server.server_close()


warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
warnings.filterwarnings(
    "ignore", message="Object at . is not recognized as a component"
)  # an empty folder of SeaweedFS
