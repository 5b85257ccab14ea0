"""`ToZip`: one stored zip for each shard."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from shardedstore.chain import Entries, Shard, Sink, Tally, Written
from shardedstore.errors import ChainError, CorruptError
from shardedstore.locations import Location, Zip
from shardedstore.mounts import check_path
from shardedstore.publish import published
from shardedstore.zipwriter import ZipWriter, writev_all

BASE = "__base__"


@dataclass(frozen=True)
class ToZip(Sink):
    """Write each shard to a stored (uncompressed) zip of its own, which alone is a Zarr as well.

    Equal shards give equal bytes: metadata first and breadth first, then the chunks in C order, fixed time stamps.
    A zip appears under its name when it is whole and on the disk.

    Parameters
    ----------
    url : str
        The folder for the zips, the config and the ledger.
    name : str
        How zips are named. ``{path}`` is the shard's path, and ``{block}`` the index of an array's block, which goes
        with the separator before it where there is none. The base's path is ``__base__``.
    zip64 : bool
        Write zip64 records even where the archive is small enough without.

    Examples
    --------
    >>> sink = ToZip("out")
    >>> sink.target("temperature", True), sink.target("simulation/fine", False), sink.target(None, False)
    ('temperature/{block}.zarr.zip', 'simulation/fine.zarr.zip', '__base__.zarr.zip')
    """

    url: str
    name: str = "{path}/{block}.zarr.zip"
    zip64: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", os.fspath(self.url))
        if re.search(r"[{}]", re.sub(r"\{(path|block)\}", "", self.name)) or self.name.count("{block}") > 1:
            raise ChainError(
                f"ToZip's name {self.name!r} may hold {{path}}, and {{block}} once, and nothing else in braces"
            )
        check_path(re.sub(r"[{}]", "", self.name), "ToZip's name")

    def target(self, path: str | None, blocked: bool) -> str:
        # docstring inherited
        name = self.name if blocked else re.sub(r"[/._-]?\{block\}", "", self.name)
        if path == "":
            return re.sub(r"\{path\}[/._-]?", "", name) or "{block}"
        shown = (BASE if path is None else path).replace("{", "%7B").replace("}", "%7D")
        return name.replace("{path}", shown)

    def location(self, url: str) -> Location:
        # docstring inherited
        return Zip(url)

    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        # docstring inherited
        tally = Tally()
        with published(url) as descriptor:
            zip_writer = ZipWriter(writev_all(descriptor), zip64=self.zip64)
            add, count = zip_writer.add, tally.add
            for key, data, _, _ in entries:
                count(key, len(data) if isinstance(data, bytes) else memoryview(data).nbytes, add(key, data))
            nbytes = zip_writer.close()
            if os.fstat(descriptor).st_size != nbytes:
                raise CorruptError(
                    f"{url!r} has another size than the {nbytes} bytes that were written: is the disk full?"
                )
        return tally.written(nbytes)

    def is_there(self, url: str, nbytes: int) -> bool:
        # docstring inherited
        try:
            return os.stat(url).st_size == nbytes
        except OSError:
            return False
