"""The data that the benchmarks run on: what it looks like, and how it is written.

Files are written directly, not through zarr: it is quicker, and every file is exactly what the layout says.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ARRAY = "data"
"""The path of the one array."""
PARTITION = {ARRAY: (1, -1)}
"""The `shards=` that makes a shard of each row of the array's chunk grid."""


@dataclass(frozen=True)
class SmallChunks:
    """One array of many small, incompressible chunks; each row of its chunk grid is one shard.

    The array has two dimensions, so that a shard is one folder of chunk files, `data/c/<shard>/<chunk>`, which any
    program can be pointed at. (With a third dimension each chunk would have a folder of its own.)
    """

    shards: int = 32
    chunks: int = 1000
    """In each shard."""
    chunk_bytes: int = 9 * 1024
    seed: int = 0

    @property
    def payload(self) -> int:
        """Bytes of all chunks together."""
        return self.shards * self.chunks * self.chunk_bytes

    def write(self, root: Path) -> None:
        """Write an ordinary Zarr of format 3 at `root`, which must be new: a group with the array in it."""
        rows = self.rows(root)
        for row in rows:
            row.mkdir(parents=True)
        _write_json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
        _write_json(root / ARRAY / "zarr.json", self._array_v3())
        random = np.random.default_rng(self.seed)
        for row in rows:
            data = memoryview(random.bytes(self.chunks * self.chunk_bytes))
            for chunk in range(self.chunks):
                (row / str(chunk)).write_bytes(data[chunk * self.chunk_bytes : (chunk + 1) * self.chunk_bytes])

    def rows(self, root: Path) -> list[Path]:
        """The folder of each shard in what `write` has written."""
        return [root / ARRAY / "c" / str(shard) for shard in range(self.shards)]

    def link_groups(self, root: Path, groups: Path) -> list[str]:
        """Make the same chunks a collection of Zarrs of format 2 in `groups`: one for each shard, as hard links.

        Returns their names, all equally long. This is the kind of shard that shardedstore 0.3.1 handles without error
        at any size (its array shards go wrong from ten chunks on).
        """
        names = [f"g{shard:04}" for shard in range(self.shards)]
        for name, row in zip(names, self.rows(root), strict=True):
            folder = groups / name
            folder.mkdir(parents=True)
            _write_json(folder / ".zarray", self._array_v2())
            for chunk in range(self.chunks):
                os.link(row / str(chunk), folder / str(chunk))
        return names

    def _array_v3(self) -> dict[str, Any]:
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.shards, self.chunks * self.chunk_bytes],
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, self.chunk_bytes]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
            "attributes": {},
        }

    def _array_v2(self) -> dict[str, Any]:
        return {
            "zarr_format": 2,
            "shape": [self.chunks * self.chunk_bytes],
            "chunks": [self.chunk_bytes],
            "dtype": "|u1",
            "compressor": None,
            "filters": None,
            "fill_value": 0,
            "order": "C",
        }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2))
