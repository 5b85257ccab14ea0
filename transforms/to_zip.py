"""`ToZip`: write each shard to a zip, several neighbouring shards to one zip, or all of them to one."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

import msgspec

from shardedstore.errors import ChainError
from shardedstore.notices import Notice, node_name
from shardedstore.storage.options import Options, StorageOptions
from shardedstore.storage.urls import carried_name, is_zip_name
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Location, Mount, ViewOf, Zip, url_of
from shardedstore.stores.members import Members
from shardedstore.transforms.base.portable import name_notices
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.single_zip import check_one_ozx, write_part
from shardedstore.transforms.base.sink import BASE, Present, Sink, Written
from shardedstore.transforms.base.zip_shard import check_ozx, is_ozx, write_zip
from shardedstore.zarr.paths import check_path, is_below, join
from shardedstore.zips.writer import CENTRAL, LOCAL

USUAL_NAME = 16  # characters of the key of a chunk


def gather(config: Config, count: int) -> Config:
    """Return a config in which `count` neighbouring members, or whole shards, are one shard.

    Raises
    ------
    ChainError
        If members of the source are already grouped by another number.
    """
    shards = {path: _regrouped(path, mount, count) for path, mount in config.shards.items()}
    if count > 1:
        for parent, names in _side_by_side(shards):
            first = shards[join(parent, names[0])].location
            template = _template(first, names[0])
            if template is not None and all(
                _template(shards[join(parent, name)].location, name) == template for name in names
            ):
                for name in names:
                    del shards[join(parent, name)]
                shards[parent] = Mount(template, members=Members(tuple(names), count, parts=True))
    return msgspec.structs.replace(config, shards=dict(sorted(shards.items(), key=lambda item: item[0].split("/"))))


def _regrouped(path: str, mount: Mount, count: int) -> Mount:
    members = mount.members
    if members is None or members.together == count:
        return mount
    if mount.exceptions or "{block}" in (url_of(mount.location) or ""):
        raise ChainError(
            f"the members of {node_name(path)} are already grouped by {members.together} in {mount.location.show()}: leave "
            f"out per_zip, or use per_zip={members.together}"
        )
    return msgspec.structs.replace(mount, members=msgspec.structs.replace(members, together=count))


def _side_by_side(shards: Mapping[str, Mount]) -> Iterator[tuple[str, list[str]]]:
    """Yield each path with at least two whole shards directly below it and no other shard, and their names."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path, mount in shards.items():
        if mount.division is None:
            parent, _, name = path.rpartition("/")
            names[parent].append(name)
    for parent, some in names.items():
        below = [path for path in shards if path == parent or is_below(path, parent)]
        if len(some) > 1 and len(below) == len(some):
            yield parent, sorted(some)


def _template(location: Location, name: str) -> Location | None:
    """Return the template of a view of a node with this name; None for any other location."""
    source, path = location.view
    if not location.divides_source or path.rpartition("/")[2] != name:
        return None
    return ViewOf(source, join(path.rpartition("/")[0], "{name}"))


@dataclass(frozen=True)
class ToZip(Sink):
    """Write each shard to a stored (uncompressed) zip, or all of them to one.

    Each zip is a Zarr by itself; only the zip of the base lacks the arrays that are divided into shards. Equal shards give
    equal bytes: metadata comes first, breadth first, then the chunks in C order, and time stamps are fixed. A zip appears
    under its name when it is complete. A local zip is synced to disk. A zip in an object store is uploaded in parts while
    it is made.

    Parameters
    ----------
    url : str
        The folder for the zips, the config and the ledger: a local path, or a URL that starts with ``s3://``, ``gs://`` or
        ``az://``. A name that ends in ``.zip`` or ``.ozx`` gives one zip with all keys, which any reader of zips opens; see Notes.
    name : str
        Template for the names of the zips. ``{path}`` stands for the shard's path, or ``__base__`` for the base. Characters
        that URLs can't hold (``%``, ``#``, ``?``, backslashes, control characters, braces) are written like ``!25``.
        ``{block}`` stands for the index of an array's block; for other shards it is removed with the separator before it.
        A name that ends in ``.ozx`` gives zips by RFC-9 of OME-Zarr: in the zip64 format, with a comment that has the
        version and says that metadata comes first. They must hold whole hierarchies of OME-Zarr 0.5. A base with mounted
        shards is not whole, and its name ends in ``.zarr.zip`` instead.
    zip64 : bool
        Write the zip64 format even if a zip is small enough without it. Only entries that need them get extra fields.
    per_zip : int, optional
        Put this many neighbouring shards into one zip, each below its name. Neighbours are members of a collection (see
        `ShardedStore.collect`), or whole groups and arrays, such as ``{"cells/*": "whole"}`` in `partition`, where nothing
        else below their parent is a shard. ``{block}`` is then the number of the zip. The zip is written, recorded and
        rewritten as one. Blocks of arrays and the base have separate zips. None keeps the shards of the source.
    storage_options : mapping or str, optional
        Options of the object store by obstore's names, or ``"anonymous"``. Secrets are in no repr, graph or file.

    Notes
    -----
    One zip is made in two stages. Each shard is written to a part in the folder ``<url>.shardedstore``, which also has the ledger.
    When all shards are done, the process that runs the job joins the parts to the zip without encoding them again. The zip appears
    when it is complete, and the parts are removed. When the source has changed, only the changed shards are written again. The other
    entries are copied from the earlier zip, and the new zip takes its place. Documents come first in the zip, breadth first. One zip
    that ends in ``.ozx`` follows RFC-9 of OME-Zarr, and must be one valid hierarchy of one version. It has no holes: `accept_failed`
    and `max_missing` are refused.

    Examples
    --------
    >>> sink = ToZip("out")
    >>> sink.target("temperature", True), sink.target("simulation/fine", False), sink.target(None, False)
    ('temperature/{block}.zarr.zip', 'simulation/fine.zarr.zip', '__base__.zarr.zip')
    >>> sink.layout, ToZip("out.zarr.zip").layout
    ('shards', 'zip')
    """

    bytes_per_entry = LOCAL.size + CENTRAL.size + 2 * USUAL_NAME

    url: str
    name: str = "{path}/{block}.zarr.zip"
    zip64: bool = False
    per_zip: int | None = field(default=None, compare=False)  # the division of the source already holds it
    storage_options: InitVar[StorageOptions] = None
    options: Options = field(init=False, repr=False, compare=False)
    layout: str = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # `url` also accepts a path, and is stored as text

        def __init__(
            self,
            url: str | os.PathLike[str],
            name: str = ...,
            zip64: bool = ...,
            per_zip: int | None = ...,
            storage_options: StorageOptions = None,
        ) -> None: ...

    def __post_init__(self, storage_options: StorageOptions) -> None:
        self.reach(storage_options)
        object.__setattr__(self, "layout", "zip" if is_zip_name(self.url) else "shards")
        if self.layout == "zip" and self.name != type(self).name:
            raise ChainError(
                f"ToZip's name {self.name!r} is for the zips in a folder, but {self.url!r} is one zip: leave out name"
            )
        if re.search(r"[{}]", re.sub(r"\{(path|block)\}", "", self.name)) or self.name.count("{block}") > 1:
            raise ChainError(
                f"ToZip's name {self.name!r} has other braces than {{path}} and one {{block}}: remove them"
            )
        check_path(re.sub(r"[{}]", "", self.name), "ToZip's name")
        if carried_name(plain := re.sub(r"\{(path|block)\}", "", self.name)) != plain:
            raise ChainError(
                f"ToZip's name {self.name!r} has characters that URLs can't hold, such as %, # or ?: leave them out"
            )
        if self.per_zip is not None and (type(self.per_zip) is not int or self.per_zip < 1):
            raise ChainError(f"ToZip's per_zip is {self.per_zip!r}: give the number of shards in a zip, 1 or more")

    def gathered(self, config: Config) -> Config:
        # docstring inherited
        return config if self.per_zip is None else gather(config, self.per_zip)

    def target(self, path: str | None, blocked: bool) -> str:
        # docstring inherited
        name = self.name if blocked else re.sub(r"[/._-]?\{block\}", "", self.name)
        if path == "":
            return re.sub(r"\{path\}[/._-]?", "", name) or "{block}"
        return name.replace("{path}", BASE if path is None else carried_name(path))

    def notices(self, nodes: Mapping[str, Node]) -> Iterator[Notice]:
        # docstring inherited
        return name_notices(nodes)

    def base_target(self, is_part: bool) -> str:
        # docstring inherited
        name = self.target(None, False)
        return f"{name[: -len('.ozx')]}.zarr.zip" if is_part and is_ozx(name) else name

    @property
    def is_zip64(self) -> bool:
        """Whether one zip has the zip64 format even if it is small, as RFC-9 of OME-Zarr recommends."""
        return self.zip64 or is_ozx(self.url)

    def location(self, url: str) -> Location:
        # docstring inherited
        return Zip(url, self.options)

    def check_shards(self, config: Config, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        if self.layout == "zip":
            if is_ozx(self.url):
                check_one_ozx(self.url, nodes)
        elif is_ozx(self.name):
            check_ozx(self.name, config, nodes)

    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        # docstring inherited
        if self.layout == "zip":
            return write_part(entries, shard, url, self.options, zip64=self.is_zip64)
        return write_zip(entries, url, self.options, most=2 * shard.nbytes, zip64=self.zip64, is_ozx=is_ozx(url))

    def is_there(self, url: str, written: Written, present: Present) -> bool:
        # docstring inherited
        return present.nbytes(url) == written.nbytes
