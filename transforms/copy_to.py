"""`CopyTo`: copy every key to one ordinary Zarr, or to one Zarr per shard."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Literal

from shardedstore.errors import ChainError, CorruptError
from shardedstore.notices import Notice
from shardedstore.storage.crc import crc32
from shardedstore.storage.inventory import Asked
from shardedstore.storage.options import Options, StorageOptions
from shardedstore.storage.urls import carried_name
from shardedstore.stores.entries import is_document
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Directory, Location
from shardedstore.transforms.base.objects import Item, write_objects
from shardedstore.transforms.base.portable import check_carried, name_notices
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.single_zarr import turn, write_shard
from shardedstore.transforms.base.sink import BASE, Present, Sink, Tally, Written


@dataclass(frozen=True)
class CopyTo(Sink):
    """Copy the shards with many requests in flight: data first, metadata last.

    Parameters
    ----------
    url : str
        The destination: a local path, or a URL that starts with ``s3://``, ``gs://`` or ``az://``.
    layout : "zarr" or "shards"
        ``"zarr"`` makes one ordinary Zarr at `url`, which any reader opens. Its metadata is written when all shards are
        complete. The config and the ledger are in a folder beside it, ``<url>.shardedstore``. ``"shards"`` makes a folder
        of Zarrs, one for each shard, which the config opens as one.
    storage_options : mapping or str, optional
        Options of the object store by obstore's names, or ``"anonymous"``. Secrets are in no repr, graph or file.

    Notes
    -----
    Many keys can't appear at once. An interrupted job leaves no metadata at the root, so that no reader opens an
    incomplete copy. The same call resumes the job.

    Examples
    --------
    >>> CopyTo("out.zarr").layout, CopyTo("out", layout="shards").target("t", True)
    ('zarr', 't/{block}.zarr')
    """

    writes_keys = True

    url: str
    layout: Literal["zarr", "shards"] = "zarr"
    storage_options: InitVar[StorageOptions] = None
    options: Options = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # `url` also accepts a path, and is stored as text

        def __init__(
            self,
            url: str | os.PathLike[str],
            layout: Literal["zarr", "shards"] = ...,
            storage_options: StorageOptions = None,
        ) -> None: ...

    def __post_init__(self, storage_options: StorageOptions) -> None:
        if self.layout not in ("zarr", "shards"):
            raise ChainError(f"CopyTo's layout is {self.layout!r}: use 'zarr' or 'shards'")
        self.reach(storage_options)

    def target(self, path: str | None, blocked: bool) -> str:
        # docstring inherited
        parts = [BASE if path is None else carried_name(path), "{block}" if blocked else ""]
        return "/".join(part for part in parts if part) + ".zarr"

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        check_carried(nodes, self.url)

    def notices(self, nodes: Mapping[str, Node]) -> Iterator[Notice]:
        # docstring inherited
        return name_notices(nodes)

    def location(self, url: str) -> Location:
        # docstring inherited
        return Directory(url, self.options)

    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        # docstring inherited
        return (
            self._write_alone(entries, url)
            if self.layout == "shards"
            else write_shard(entries, shard, url, self.options)
        )

    def _write_alone(self, entries: Entries, url: str) -> Written:
        tally, documents = Tally(), list[Item]()

        def items() -> Iterator[Item]:
            for entry in entries:
                tally.add(entry.key, memoryview(entry.data).nbytes, crc32(entry.data))
                if is_document(entry):
                    documents.append((entry.key, entry.data))
                else:
                    yield entry.key, entry.data

        write_objects(url, self.options, items())
        write_objects(url, self.options, [item for item in documents if "/" in item[0]])
        for item in sorted((item for item in documents if "/" not in item[0]), key=lambda item: turn(item[0])):
            write_objects(url, self.options, [item])
        files, nbytes = Asked(self.options).below(url)
        if (files, nbytes) != (tally.entries, tally.nbytes):
            raise CorruptError(
                f"{url!r} holds {files} files of {nbytes} bytes, but this run wrote {tally.entries} files of "
                f"{tally.nbytes} bytes: an earlier run left files that are no longer in the source. Remove this folder, and "
                "run the job again"
            )
        return tally.written(tally.nbytes)

    def is_there(self, url: str, written: Written, present: Present) -> bool:
        """Check that all files of a separate shard exist.

        Parameters
        ----------
        url : str
            The URL or the absolute path of the shard.
        written : Written
            The result of the shard's `write`.
        present : Present
            The inventory of the destination.

        Returns
        -------
        bool
            Whether the folder holds as many files and bytes as were written.
        """
        return present.below(url) == (written.entries, written.nbytes)
