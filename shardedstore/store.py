"""`ShardedStore`: one zarr store made of a base and of components; it routes zarr's calls to them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore import config as configs
from shardedstore import graph
from shardedstore.chain import parse_chain
from shardedstore.config import Config, Mount
from shardedstore.errors import ChainError, ConfigError, UsageError
from shardedstore.grid import Blocks, Coords, block_name, parse_block
from shardedstore.job import prepare
from shardedstore.locations import Location, ViewOf, is_remote, locate, normalize, open_block, open_location
from shardedstore.mounts import Mounts
from shardedstore.partition import Shards, divide
from shardedstore.plan import make_plan
from shardedstore.publish import write_file
from shardedstore.readonly import ReadOnlyStore
from shardedstore.task import Outcome
from shardedstore.views import Block, View

MOST_OPEN = 512  # components; the least recently used is dropped, and closed when nothing reads from it any more
Target = str | os.PathLike[str]


@dataclass(frozen=True)
class Summary:
    """What the job that made a store did: shards done, shards found done already, and what was written."""

    done: int
    skipped: int
    entries: int
    nbytes: int


class ShardedStore(ReadOnlyStore):
    """A read-only zarr store made of a base and of component stores mounted at paths in it.

    Parameters
    ----------
    base : Store, str or path
        Holds everything that no component does.
    shards : mapping of str to Store, str or path
        What is mounted at each path; no path may lie inside another.

    Notes
    -----
    Any existing Zarr becomes one by `partition`, the result of a job by `load`.
    """

    summary: Summary | None = None

    def __init__(self, base: Store | Target, shards: Mapping[str, Store | Target] | None = None) -> None:
        mounts = {path.strip("/"): Mount(locate(store)) for path, store in (shards or {}).items()}
        self._init(Config(locate(base), mounts))

    def _init(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._mounts = Mounts(config.shards)
        self._opened: OrderedDict[tuple[str | None, Coords | None], Store] = OrderedDict()
        self._overlay: set[str] | None = None

    @classmethod
    def _of(cls, config: Config, outcome: Outcome | None = None) -> Self:
        store = cls.__new__(cls)
        store._init(config)
        if outcome is not None:
            store.summary = Summary(outcome.done, outcome.skipped, outcome.entries, outcome.nbytes)
        return store

    @classmethod
    def partition(cls, source: Store | Target, shards: Shards = "1 GiB") -> Self:
        """Look at any Zarr as a collection of shards: nothing is copied, and chunks are not listed.

        Parameters
        ----------
        source : Store, str or path
            A zarr store, a local folder or zip, or a URL of an object store.
        shards
            How to divide it. A size (``"512 MiB"``, or bytes) cuts every larger array into blocks of about that much
            decoded data, and leaves the rest in the base. A list of paths or globs makes each one whole shard. A
            mapping gives for each path or glob ``"whole"``, a size, or the shards' size in elements, as a shape or by
            the names of dimensions; -1 is the whole dimension, and a size must be a whole number of chunks. The most
            specific pattern wins; ``*`` alone is everything that is left.

        Raises
        ------
        PartitionError
            For what can't be divided as asked.
        """
        return cls._of(divide(locate(source), shards))

    def map_shards(
        self,
        *chain: object,
        compute: bool = True,
        on_error: Literal["finish"] = "finish",
        retries: int = 2,
        overwrite: bool = False,
        to: Target | None = None,
        progress: graph.Progress | None = None,
    ) -> Any:
        """Run a chain of transforms over every shard with Dask, and return the store of the results.

        The source is never changed. Each shard is published and recorded when it is done, so that the same call after
        any interruption goes on from there. The config, ``shardedstore.json``, is written last: it is the only proof
        of success.

        Parameters
        ----------
        *chain
            Steps and then one sink, such as ``ToZip(url)``; or alone a function ``(store, shard_path, chunk_dims) ->
            store``, which gets a component, its path (``""`` for the base) and for an array's block its index, like
            ``"0/2"``, or None.
        compute : bool
            Run it now, on the Dask scheduler that is active; otherwise return a lazy Dask object that does it.
        on_error : "finish"
            Every shard that can be done is done, before the errors of the others are raised together.
        retries : int
            How often a shard is tried again after an error that may pass, such as one of the network.
        overwrite : bool
            Write to a destination that holds something else. What is there stays, beside the new, until the new config
            takes the place of the old.
        to : str or path, optional
            For a function: the folder for config and ledger. Without it the result is only returned.
        progress : callable, optional
            Called with the number of shards that have ended, and of all.

        Raises
        ------
        UsageError
            For what can't be run, before anything runs.
        ShardsFailed
            When shards failed: an error for each, and no config is written. What is done stays done.
        """
        parsed = parse_chain(chain)
        if on_error != "finish":
            raise UsageError(f"on_error={on_error!r} is not known: this version has 'finish'")
        if type(retries) is not int or retries < 0:
            raise UsageError(f"retries={retries!r} is not a number of retries: say 0 or more")
        if parsed.sink is not None and to is not None:
            raise ChainError(f"to= is for a function alone: {type(parsed.sink).__name__} has a destination of its own")
        configs.to_dict(self._config)  # every component has a location
        plan = make_plan(self._config)
        job = prepare(plan, parsed, None if to is None else os.fspath(to), overwrite, retries)
        if compute:
            return graph.run(job, plan, overwrite, ShardedStore._of, progress)
        return graph.lazy(job, plan, overwrite, ShardedStore._of)

    @property
    def config(self) -> Config:
        """The description of this store, as the package itself uses it; `get_config` gives it as JSON."""
        return self._config

    def get_config(self) -> dict[str, Any]:
        """Return the JSON document that describes this store, with absolute URLs."""
        return configs.to_dict(self._config)

    @classmethod
    def from_config(cls, config: object, *, root: Target | None = None, allow: Iterable[Target] | None = None) -> Self:
        """Return the store that a JSON document describes.

        Parameters
        ----------
        config : mapping
            What `get_config` returned.
        root : str or path, optional
            The folder that relative URLs start from.
        allow : iterable of str, optional
            The only places outside `root` that the config may name; None trusts it.

        Raises
        ------
        ConfigError
            For a document that is no config, naming the field.
        """
        folder = None if root is None else normalize(root)
        places = None if allow is None else [os.fspath(place) for place in allow]
        return cls._of(configs.from_dict(config, folder, places))

    def save(self, path: Target) -> None:
        """Write the config to a local file; components inside its folder are named relative to it."""
        url = normalize(path)
        if is_remote(url):
            raise UsageError(f"{url!r} is in an object store: a config is saved to a local file, for now")
        write_file(url, configs.dump(self._config, os.path.dirname(url)))

    @classmethod
    def load(cls, path: Target, *, allow: Iterable[Target] = ()) -> Self:
        """Open the store that a config file describes.

        Parameters
        ----------
        path : str or path
            A local file, or a folder with a ``shardedstore.json`` in it.
        allow : iterable of str
            Places outside the config's folder that it may name.

        Raises
        ------
        ConfigError
            For a file that is no config, or names places outside its folder that are not allowed.
        """
        url = normalize(path)
        if is_remote(url):
            raise UsageError(f"{url!r} is in an object store: a config is loaded from a local file, for now")
        if os.path.isdir(url):
            url = os.path.join(url, configs.FILE_NAME)
        try:
            with open(url, "rb") as file:
                data = file.read()
        except OSError as error:
            raise ConfigError(f"no config can be read at {url!r}: {error.strerror}") from error
        return cls.from_config(configs.parse(data, url), root=os.path.dirname(url), allow=allow)

    # routing

    def _component(self, path: str | None, block: Coords | None = None) -> Store:
        """Return a component, opened when it is first asked for; the base for None."""
        place = path, block
        store = self._opened.get(place)
        if store is None:
            store = self._open_component(path, block)
            if len(self._opened) >= MOST_OPEN:
                self._opened.popitem(last=False)
        self._opened[place] = store
        self._opened.move_to_end(place)
        return store

    def _open_component(self, path: str | None, block: Coords | None) -> Store:
        if path is None:
            return open_location(self._config.base)
        mount = self._config.shards[path]
        exception: Location | None = mount.exceptions.get(block_name(block))
        if exception is not None:
            return open_location(exception)
        if isinstance(mount.location, ViewOf) and mount.location.source == self._config.base:
            base, inside = self._component(None), mount.location.path  # shared: a zip's directory is read once
            blocks = mount.blocks
            return View(base, inside) if blocks is None or block is None else Block(base, inside, blocks, block)
        if mount.blocks is None or block is None:
            return open_location(mount.location)
        return open_block(mount.location, mount.blocks, block)

    def _route(self, key: str) -> tuple[Store, str]:
        """Return the component that holds a key, and the key inside it."""
        found = self._mounts.resolve(key)
        if found is None:
            return self._component(None), key
        path, rest = found
        blocks = self._config.shards[path].blocks
        if blocks is None:
            return self._component(path), rest
        coords = blocks.keys.decode(rest, blocks.chunk_grid)
        if coords is None:
            return self._component(None), key
        block, local = blocks.split(coords)
        return self._component(path, block), blocks.keys.encode(local)

    async def _consolidated(self) -> tuple[Store | None, set[str]]:
        """Return the component of rebuilt consolidated metadata, and its keys."""
        if self._config.consolidated is None:
            return None, set()
        store = open_location(self._config.consolidated)
        if self._overlay is None:
            self._overlay = {key async for key in store.list()}
        return store, self._overlay

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        if self._config.consolidated is not None and key.rpartition("/")[2] in (".zmetadata", "zarr.json"):
            store, keys = await self._consolidated()
            if store is not None and key in keys:
                return await store.get(key, prototype, byte_range)
        store, rest = self._route(key)
        return await store.get(rest, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        store, rest = self._route(key)
        return await store.exists(rest) or key in (await self._consolidated())[1]

    async def getsize(self, key: str) -> int:
        # docstring inherited
        overlay, keys = await self._consolidated()
        store, rest = (overlay, key) if overlay is not None and key in keys else self._route(key)
        return await store.getsize(rest)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        overlay = (await self._consolidated())[1]
        async for key in self._list_components(prefix):
            if key not in overlay:
                yield key
        for key in overlay:
            if key.startswith(prefix):
                yield key

    async def _list_components(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._component(None).list_prefix(prefix):
            if self._route(key)[0] is self._component(None):
                yield key
        for path, mount in self._config.shards.items():
            start = f"{path}/" if path else ""
            if not (start.startswith(prefix) or prefix.startswith(start)):
                continue
            if mount.blocks is None:
                async for key in self._component(path).list_prefix(prefix[len(start) :]):
                    yield start + key
                continue
            async for key in self._list_blocks(path, mount, mount.blocks, prefix[len(start) :]):
                yield start + key

    async def _list_blocks(self, path: str, mount: Mount, blocks: Blocks, prefix: str) -> AsyncIterator[str]:
        names = None
        if isinstance(mount.location, ViewOf):  # one listing of the source for all blocks that are there
            names = mount.exceptions.keys()
            async for key in self._component(path).list_prefix(prefix):
                coords = blocks.keys.decode(key, blocks.chunk_grid)
                if coords is not None and block_name(blocks.split(coords)[0]) not in names:
                    yield key
        for block in map(blocks.index, range(blocks.count)) if names is None else map(parse_block, names):
            async for key in self._component(path, block).list():
                local = blocks.keys.decode(key, blocks.local_grid(block))
                if local is not None and (whole := blocks.keys.encode(blocks.join(block, local))).startswith(prefix):
                    yield whole

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        path = prefix.strip("/")
        found = self._mounts.resolve(path)
        if found is not None and self._config.shards[found[0]].blocks is not None:
            async for name in super().list_dir(path):
                yield name
            return
        names: dict[str, None] = {}
        store, rest = (self._component(None), path) if found is None else (self._component(found[0]), found[1])
        async for name in store.list_dir(rest):
            names[name] = None
        if found is None:
            names |= dict.fromkeys(self._mounts.children(path))
        names |= {
            key[len(path) :].strip("/"): None
            for key in (await self._consolidated())[1]
            if key.rpartition("/")[0] == path
        }
        for name in names:
            yield name

    # identity

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._config == other._config

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self._config, "summary": self.summary}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._init(state["config"])
        self.summary = state["summary"]

    def __repr__(self) -> str:
        count = sum(1 if mount.blocks is None else mount.blocks.count for mount in self._config.shards.values())
        return f"<ShardedStore of {self._config.base} and {count} shards at {len(self._config.shards)} paths>"
