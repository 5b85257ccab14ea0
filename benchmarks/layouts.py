"""The data of the benchmarks: its layout, and how to write it.

Files are written directly and not through zarr. This is faster, and every file follows the layout exactly.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd

ARRAY = "data"
"""The path of the one array."""
PARTITION = {ARRAY: (1, -1)}
"""The `shards=` that makes a shard of each row of the array's chunk grid."""


@dataclass(frozen=True)
class SmallChunks:
    """One array of many small, incompressible chunks; each row of its chunk grid is one shard.

    The array has two dimensions, so that a shard is one folder of chunk files, `data/c/<shard>/<chunk>`, which any
    program can read. (With a third dimension, each chunk would be in a separate folder.)
    """

    shards: int = 32
    chunks: int = 1000
    """In each shard."""
    chunk_bytes: int = 9 * 1024
    seed: int = 0

    @property
    def payload(self) -> int:
        """The size of all chunks together in bytes."""
        return self.shards * self.chunks * self.chunk_bytes

    def write(self, root: Path) -> None:
        """Write an ordinary Zarr of format 3 at a new `root`: a group that holds the array."""
        rows = self.rows(root)
        for row in rows:
            row.mkdir(parents=True)
        _write_json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
        _write_json(root / ARRAY / "zarr.json", self._array_v3())
        random = np.random.default_rng(self.seed)
        for row in rows:
            for chunk, data in enumerate(self._encoded(random)):
                (row / str(chunk)).write_bytes(data)

    def __str__(self) -> str:
        return (
            f"{self.shards} shards x {self.chunks:,} chunks of {self.chunk_bytes:,} bytes"
            f" = {self.payload / 2**20:,.0f} MiB"
        )

    def checksums(self, root: Path) -> Iterator[int]:
        """The CRC-32 of each chunk that `write` has written."""
        return (zlib.crc32(file.read_bytes()) for row in self.rows(root) for file in row.iterdir())

    def rows(self, root: Path) -> list[Path]:
        """The folder of each shard that `write` has written."""
        return [root / ARRAY / "c" / str(shard) for shard in range(self.shards)]

    def link_groups(self, root: Path, groups: Path) -> list[str]:
        """Make a collection of Zarrs of format 2 with the same chunks in `groups`: one for each shard, as hard links.

        Returns their names, which have equal lengths. shardedstore 0.3.1 handles such shards correctly at any size (its
        array shards are wrong from ten chunks on).
        """
        names = [f"g{shard:04}" for shard in range(self.shards)]
        for name, row in zip(names, self.rows(root), strict=True):
            folder = groups / name
            folder.mkdir(parents=True)
            _write_json(folder / ".zarray", self._array_v2())
            for chunk in range(self.chunks):
                os.link(row / str(chunk), folder / str(chunk))
        return names

    def _encoded(self, random: np.random.Generator) -> Iterator[bytes | memoryview]:
        """The stored chunks of one shard."""
        data = memoryview(random.bytes(self.chunks * self.chunk_bytes))
        for chunk in range(self.chunks):
            yield data[chunk * self.chunk_bytes : (chunk + 1) * self.chunk_bytes]

    def _array_v3(self) -> dict[str, Any]:
        return _array_v3("uint8", self.shards, self.chunks, self.chunk_bytes, [{"name": "bytes"}])

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


@dataclass(frozen=True)
class CompressedChunks(SmallChunks):
    """The same with slowly changing numbers, which zstd compresses to about a third."""

    chunk_bytes: int = 16 * 1024
    """Decoded."""
    level: int = 3

    def _encoded(self, random: np.random.Generator) -> Iterator[bytes]:
        codec = Zstd(level=self.level)
        for _ in range(self.chunks):
            yield codec.encode((random.integers(-8, 9, self.chunk_bytes // 4).cumsum() / 8).astype("<f4"))

    def _array_v3(self) -> dict[str, Any]:
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": self.level, "checksum": False}},
        ]
        return _array_v3("float32", self.shards, self.chunks, self.chunk_bytes // 4, codecs)


@dataclass(frozen=True)
class LinkedChunks(SmallChunks):
    """The same with few distinct chunks and hard links to them, so that the array needs little space."""

    chunk_bytes: int = 1 << 20
    distinct: int = 16

    def write(self, root: Path) -> None:
        few = SmallChunks(1, self.distinct, self.chunk_bytes, self.seed)
        few.write(root)
        _write_json(root / ARRAY / "zarr.json", self._array_v3())
        (first,) = few.rows(root)
        for row in self.rows(root):
            row.mkdir(exist_ok=True)
            for chunk in range(self.chunks):
                if not (row / str(chunk)).exists():
                    os.link(first / str(chunk % self.distinct), row / str(chunk))


def _array_v3(dtype: str, shards: int, chunks: int, length: int, codecs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [shards, chunks * length],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, length]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2))
