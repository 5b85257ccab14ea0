"""`ShardedStore`: partition any Zarr, transform its shards with Dask, and open the result from a config."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from zarr.abc.store import Store
from zarr.storage import LocalStore

from shardedstore.callbacks.progress import Shown
from shardedstore.config import document as configs
from shardedstore.config.legacy import check_saved, parse_legacy
from shardedstore.config.legacy_document import is_legacy
from shardedstore.display.describe import to_html, to_text
from shardedstore.display.shards import Shards as StoredShards
from shardedstore.errors import ConfigError, PartitionError, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.callbacks import Callback
from shardedstore.jobs.change_detection import Changed
from shardedstore.jobs.guards import Guards
from shardedstore.jobs.job import MOST_FAILURES
from shardedstore.jobs.job_plan import JobOptions, JobPlan, OnError, plan_job
from shardedstore.jobs.layouts.registry import find_result_job, job_in
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.limits import NO_LIMITS, Limits
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.move.finish import finish_move
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.object_sizes import MAX_BASE
from shardedstore.jobs.partial import find_job_folder, load_partial, unfinished
from shardedstore.jobs.partial_state import Partial
from shardedstore.jobs.preflight import source_urls
from shardedstore.jobs.prune import Pruned, prune
from shardedstore.jobs.records import Records
from shardedstore.jobs.report import Report, read_report
from shardedstore.jobs.retention import parse_retention
from shardedstore.jobs.store_info import StoreInfo, counted, info_of
from shardedstore.jobs.summary import Summary
from shardedstore.notices import Notice
from shardedstore.partition.access import Accesses
from shardedstore.partition.collect import collect
from shardedstore.partition.partition import divide_noting
from shardedstore.partition.patterns import Paths, Shards
from shardedstore.partition.selection import Selection
from shardedstore.partition.shard_sizes import DEFAULT_SIZE
from shardedstore.partition.suggest import Suggestion, SuggestTarget, suggest_shards
from shardedstore.storage.attributes import NO_ATTRIBUTES, ObjectAttributes
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.outputs import upload_rule
from shardedstore.storage.urls import is_zip_name, join_url, normalize, similar_path, unquote_name
from shardedstore.stores.hierarchy import Node, read_nodes
from shardedstore.stores.locations import Config, Location, Mount, Place
from shardedstore.stores.no_zarr import is_zarr
from shardedstore.stores.recognise import locate
from shardedstore.stores.routes import BASE, Address
from shardedstore.transforms.base.sink import Sink, StoreFunction
from shardedstore.transforms.base.step import Step
from shardedstore.verify.report import Level, VerifyReport
from shardedstore.verify.verify import verify
from shardedstore.writing.arrayshards import ArrayShardFuncs, parse_rules
from shardedstore.writing.writable import WritableStore
from shardedstore.zarr.paths import Mounts, check_path
from shardedstore.zips.index import split_inside

if TYPE_CHECKING:
    from dask.delayed import Delayed
    from distributed import Client

    from shardedstore.choose.codec_comparison import CodecComparison

Target = str | os.PathLike[str]
GO_ON = "run the same call again, or open what there is with ShardedStore.load(..., partial=True)"


class ShardedStore(WritableStore):
    """A zarr store made of a base store and of stores that are mounted at paths.

    A store from this constructor is as writable as its components. `partition`, `load`, `from_config` and `map_shards`
    return read-only stores.

    Parameters
    ----------
    base : Store, str or path
        The store of all keys that are not below a mount.
    shards : mapping of str to Store, str or path, optional
        The mounted stores by path; no path may lie inside another.
    array_shard_funcs : mapping of str to (shape, factory), optional
        Rules by path for arrays that are divided into shards when they are written. The shape is the number of leading
        dimensions that are divided into single chunks, or the shards' shape in elements, like ``(720, -1)`` or
        ``{"time": 720}``. The factory returns the store of a shard for the index of its block, like ``"0/2"``; an example is
        ``array_shard_directory_store(prefix)``. Shards are made when the array's metadata is written, and each holds the
        metadata of its own block. Their chunks stay when the array is resized or its metadata is rewritten, and are deleted
        with the array.
    read_only : bool
        Refuse writes.

    Attributes
    ----------
    summary : Summary or None
        The summary of the job that made this store.
    partial : Partial or None
        If the store shows the result of an unfinished job: the number of shards that are read from the result, and the reasons
        for the others.
    notices : tuple of Notice
        Warnings about the division of the store, which become notices of its jobs.

    Raises
    ------
    UsageError, PartitionError
        If paths overlap, or if an array already exists and is divided in another way.

    See Also
    --------
    ShardedStore.partition : Divide any Zarr into shards.
    ShardedStore.load : Open the result of a job.

    Examples
    --------
    Read two Zarrs as one:

    >>> import numpy as np
    >>> import zarr
    >>> from zarr.storage import MemoryStore
    >>> from shardedstore import ShardedStore
    >>> base, wind = MemoryStore(), MemoryStore()
    >>> root = zarr.create_group(base, attributes={"title": "model run"})
    >>> _ = zarr.create_array(wind, data=np.array([3, 5, 8]), chunks=(1,))
    >>> store = ShardedStore(base, {"wind": wind}, read_only=True)
    >>> group = zarr.open_group(store, mode="r")
    >>> group.attrs["title"], group["wind"][:].tolist()
    ('model run', [3, 5, 8])

    Divide an array into shards, transform them, and open the result:

    >>> import tempfile, dask
    >>> from shardedstore.transforms import Recompress, ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", data=np.arange(8), chunks=(2,))
    ...     era5 = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)})
    ...     _ = era5.map_shards(Recompress("zstd", level=5), ToZip(f"{folder}/zips"))
    ...     zarr.open_array(ShardedStore.load(f"{folder}/zips"), path="t2m", mode="r")[:].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """

    summary: Summary | None = None
    partial: Partial | None = None
    notices: tuple[Notice, ...] = ()
    _nodes: Mapping[str, Node] | None = None  # that `partition` has read

    def __init__(
        self,
        base: Store | Target,
        shards: Mapping[str, Store | Target] | None = None,
        array_shard_funcs: ArrayShardFuncs | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        mounts = {check_path(path, "shard"): Mount(locate(store)) for path, store in (shards or {}).items()}
        rules = parse_rules(array_shard_funcs)
        Mounts([*mounts, *rules])
        stores: dict[Address, Store | Target] = {BASE: base}
        stores.update(((path, None), store) for path, store in (shards or {}).items())
        given = {place: store for place, store in stores.items() if isinstance(store, Store) and not _is_plain(store)}
        super().__init__(Config(locate(base), mounts), given, rules, is_writable=True)
        self._read_only = read_only
        self.look()

    @classmethod
    def _of(cls, config: Config, summary: Summary | None = None, partial: Partial | None = None) -> Self:
        store = cls.__new__(cls)
        WritableStore.__init__(store, config)
        store.summary = summary
        store.partial = partial if summary is None else summary.partial
        return store

    @property
    def shards(self) -> StoredShards:
        """The shards of the store, such as ``store.shards["temperature", 3].open()``.

        Examples
        --------
        >>> import zarr
        >>> from shardedstore import ShardedStore
        >>> source = zarr.storage.MemoryStore()
        >>> array = zarr.create_array(source, name="t", shape=(6,), chunks=(2,), dtype="i4")
        >>> array[:] = range(6)
        >>> shard = ShardedStore.partition(source, {"t": (4,)}).shards["t", 1]
        >>> shard.name, zarr.open_array(shard.open(), mode="r")[:].tolist()
        ('t[1]', [4, 5])
        """
        return StoredShards(self.config)

    @classmethod
    def partition(
        cls,
        source: Store | Target,
        shards: Shards = DEFAULT_SIZE,
        *,
        include: Paths | None = None,
        exclude: Paths | None = None,
        storage_options: StorageOptions = None,
    ) -> Self:
        """Divide any Zarr into shards, without copying data or listing chunks.

        Parameters
        ----------
        source : Store, str or path
            A zarr store, a local folder or zip, or a URL of an object store.
        shards : str, int, mapping or iterable of str, optional
            How to divide it. A size (``"512 MiB"``, or bytes) divides every larger array into blocks of about this decoded
            size, and keeps smaller arrays in the base. A list of paths or globs makes each match one whole shard. A mapping
            has a rule for each path or glob: ``"whole"``, ``"base"``, a size, or the shards' shape in elements. ``"base"``
            keeps arrays undivided in the base. A shape is a tuple, or a mapping by the names of dimensions; -1 means the
            whole dimension, and other values must be a whole number of chunks. A rule by names for a glob skips arrays that
            lack the dimensions or are too small, with a notice. The most specific pattern wins. ``*`` alone matches all
            remaining arrays; its default rule is ``"1 GiB"``. An empty list (``[]``) keeps all arrays in the base.

            In globs, ``*`` and ``?`` match within one segment, ``**`` across segments, ``[a-z]`` one letter of a range, and
            ``{a,b}`` one of the alternatives; ``[*]`` is a literal ``*``. A ``?`` at the end is not part of the pattern: it
            allows the pattern to match nothing, which is an error otherwise.
        include : str or list of str, optional
            Paths or globs of the groups and arrays to keep, with everything below them. Parent groups keep only their
            metadata documents. None keeps everything. Other files are kept with their group.
        exclude : str or list of str, optional
            Paths or globs of the included groups and arrays to leave out, with everything below them. They are neither
            listed nor read, and consolidated metadata does not name them.
        storage_options : mapping or str, optional
            Options of the object store by obstore's names, or ``"anonymous"``. Public options, such as an endpoint, are
            stored in the config. All others, such as keys, stay in this process and its workers. By default, the options of
            the environment are used.

        Returns
        -------
        ShardedStore
            A read-only store of the same data. Warnings about the division are in its `notices`.

        Raises
        ------
        PartitionError
            If an array can't be divided by its rule, or if a pattern matches nothing.

        See Also
        --------
        map_shards : Transform the shards.
        collect : Read many Zarrs as the shards of one.

        Examples
        --------
        >>> import zarr
        >>> from shardedstore import ShardedStore
        >>> source = zarr.storage.MemoryStore()
        >>> _ = zarr.create_array(source, name="t", shape=(720, 4), chunks=(24, 4), dtype="f4")
        >>> store = ShardedStore.partition(source, {"t": (240, -1)})  # 240 rows and all columns to a shard
        >>> [shard.name for shard in store.shards]
        ['(base)', 't[0]', 't[1]', 't[2]']
        """
        location = locate(source, storage_options)
        try:
            divided = divide_noting(location, shards, include, exclude)
        except PartitionError as error:
            if half := _unfinished(location):
                raise PartitionError(
                    f"{location.show()} is the result of a job that has not ended: {half}; {GO_ON}"
                ) from error
            raise
        store = cls._of(divided.config)
        store.notices = divided.notices
        store._nodes = divided.nodes
        return store

    @classmethod
    def collect(
        cls,
        pattern: Target,
        *,
        names: Iterable[str] | None = None,
        storage_options: StorageOptions = None,
    ) -> Self:
        """Collect many independent Zarrs of one format as shards of one Zarr.

        Each Zarr becomes a group or an array below a new root. The Zarrs are listed once, and only the metadata of the first
        one is read. A problem of another one, such as a matching folder that is not a Zarr, raises an error with its name when
        it is read.

        Parameters
        ----------
        pattern : str or path
            A local path or a URL of an object store. ``*`` stands for a part of a segment, in one or several segments, like
            ``"cells/*.zarr"`` or ``"s3://bucket/plates/*/*.zarr"``. The text that ``*`` matches is the member's name; several
            ``*`` give a path, with new groups on the way. A pattern that ends in ``.zip`` or ``.ozx`` matches files, any other
            pattern matches folders. ``*`` does not match names that begin with a dot.
        names : iterable of str, optional
            The names of the members. If they are given, nothing is listed. Web servers need them, as they can't be listed.
        storage_options : mapping or str, optional
            Options of the object store; see `partition`.

        Returns
        -------
        ShardedStore
            A read-only store with a group or an array for each member.

        Raises
        ------
        UsageError
            If the pattern is not valid.
        PartitionError
            If nothing matches, or the first match is not a Zarr.

        See Also
        --------
        partition : Divide one Zarr into shards.

        Notes
        -----
        With ``changed="metadata"``, a later job finds new and removed members, but no changes inside a member; ``"listing"``
        and ``"content"`` find these too. Consolidated metadata of a member is copied, unless a step may change the documents
        that it describes. There is no consolidated metadata of the whole collection.

        Examples
        --------
        >>> import numpy as np
        >>> import tempfile, zarr
        >>> from shardedstore import ShardedStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, value in {"a": 1, "b": 2}.items():
        ...         _ = zarr.create_array(f"{folder}/{name}.zarr", data=np.full(2, value))
        ...     cells = zarr.open_group(ShardedStore.collect(f"{folder}/*.zarr"), mode="r")
        ...     {name: cells[name][:].tolist() for name in sorted(cells)}
        {'a': [1, 1], 'b': [2, 2]}
        """
        return cls._of(collect(pattern, names, storage_options))

    def suggest(
        self, *, target: SuggestTarget = "zip", size: str | int = "512 MiB", access: Accesses | None = None
    ) -> Suggestion:
        """Suggest the shards of each array, for a size and for the ways in which the arrays are read.

        Only metadata is read. The result is a mapping of rules, which `partition` takes as `shards`.

        Parameters
        ----------
        target : "zip" or "sharding"
            The format: zips of `ToZip`, or objects of `ToShardingCodec`. Zips keep undivided arrays in the base; for the
            sharding codec, each array of several chunks gets at least one object.
        size : str or int
            The largest decoded size of a shard, in bytes or with a unit.
        access : mapping or iterable of mappings, optional
            How one read goes along named dimensions: ``"series"`` reads all elements at one place of the other dimensions,
            ``"step"`` reads one step and all of the others, and a number reads so many elements. Several mappings are several
            ways to read, of equal weight. By default, leading dimensions are divided, as by `partition`.

        Returns
        -------
        Suggestion
            The rules, and for each array the shape, the number of shards, the reason, and the files, requests and bytes of
            a read.

        Raises
        ------
        PartitionError
            If an argument is not valid, or names an unknown dimension, or if the store is a collection.

        See Also
        --------
        partition : Divide a Zarr by the suggestion.

        Notes
        -----
        The costs suppose that a read begins at the start of a chunk and of a shard. A request is one range of bytes: each
        shard needs one for its index, and each chunk another one.

        Examples
        --------
        >>> import zarr
        >>> from shardedstore import ShardedStore
        >>> source = zarr.storage.MemoryStore()
        >>> _ = zarr.create_array(
        ...     source, name="t", shape=(400, 8, 8), chunks=(1, 4, 4), dtype="f4", dimension_names=("time", "y", "x")
        ... )
        >>> found = ShardedStore.partition(source).suggest(size="32 KiB", access={"time": "series"})
        >>> dict(found), found.arrays[0].now[0].files, found.arrays[0].costs[0].files
        ({'t': {'y': 4, 'x': 4}, '*': '32 KiB'}, 400, 1)
        >>> store = ShardedStore.partition(source, shards=found)
        """
        return suggest_shards(read_nodes(self.config), target, size, access)

    def compare_codecs(
        self, codecs: Mapping[str, Any], *, sample: str | int = "64 MiB", arrays: Selection = "*"
    ) -> CodecComparison:
        """Measure sizes and speeds of codecs on chunks of the store. Nothing is written.

        The chunks are spread evenly over each array, and missing chunks are skipped. Equal calls use equal chunks.

        Parameters
        ----------
        codecs : mapping of str to codec
            The codecs by a name of your choice, each in a form that `Recompress` takes: ``"zstd"``, ``{"id": "blosc", "shuffle":
            "bitshuffle"}``, a codec of numcodecs or zarr, or None. A `Recompress` step, or its arguments as in
            ``{"codec": "zstd", "filters": "delta"}``, also changes filters.
        sample : str or int
            The decoded size of the chunks, in bytes or with a unit. Each array has at least one chunk.
        arrays : str or tuple of str
            The arrays to measure, by path or glob; see `ArrayStep`. The 32 largest are measured.

        Returns
        -------
        CodecComparison
            The ratio, the size, and the speeds in and out, for each codec and array and for all arrays together. The first
            row has the current codecs. Its `plot` draws them with matplotlib.

        Raises
        ------
        UsageError
            If the sample is not valid, or if no chunk can be decoded.
        ChainError
            If a codec is not valid, or fits none of the arrays. If it fits only some, the others keep their codecs, and the row
            has an error.

        See Also
        --------
        JobPlan.try_shard : Run a whole chain on one shard.

        Notes
        -----
        The speeds are those of one thread, in decoded bytes. They include filters, but no storage.

        Examples
        --------
        >>> import numpy as np
        >>> import zarr
        >>> from shardedstore import ShardedStore
        >>> source = zarr.storage.MemoryStore()
        >>> _ = zarr.create_array(source, name="t", data=np.arange(40_000), chunks=(10_000,), compressors=None)
        >>> found = ShardedStore.partition(source).compare_codecs(
        ...     {"zstd": "zstd", "delta": {"codec": "zstd", "filters": "delta"}}
        ... )
        >>> [(row.codec, row.codecs) for row in found.total]
        [('(now)', 'none'), ('zstd', 'zstd(0)'), ('delta', 'numcodecs.delta + zstd(0)')]
        >>> found.smallest
        'delta'
        """
        from shardedstore.choose.compare_codecs import compare_codecs

        return compare_codecs(self.config, codecs, sample, arrays)

    def plan(
        self,
        *chain: Step | Sink | StoreFunction,
        on_error: OnError = "finish",
        changed: Changed = "metadata",
        digest: bool = False,
        retries: int = 2,
        max_failures: int = MOST_FAILURES,
        max_base: str | int = MAX_BASE,
        accept_failed: Iterable[str] = (),
        max_missing: int = 0,
        overwrite: bool = False,
        consolidated: bool | None = None,
        to: Target | None = None,
        storage_options: StorageOptions = None,
        move: Move | None = None,
        guards: Guards | None = None,
        objects: ObjectAttributes = NO_ATTRIBUTES,
        limits: Limits = NO_LIMITS,
        portable: bool = False,
        source_moved_from: str | os.PathLike[str] | None = None,
    ) -> JobPlan:
        """Check a job, and return its plan. Nothing is written.

        Everything that can be refused before anything runs is refused here. The plan's `run` runs it.

        Parameters
        ----------
        *chain
            Steps and then one sink, such as ``ToZip(url)``; or a single function ``(store, shard_path, chunk_dims) ->
            store``. The function gets a shard's store, its path (``""`` for the base), and the index of an array's block,
            like ``"0/2"``, or None.
        on_error : "finish", "stop" or "partial"
            ``"finish"`` runs all shards and then raises the errors together. ``"stop"`` ends the job at the first error;
            finished shards stay. ``"partial"`` warns of errors and lists them in ``summary.failures``. The returned store
            shows finished shards from the result, and all others from the source, as `load` does with ``partial=True``. No
            config is written then, and the same call resumes the job.
        changed : "metadata", "listing" or "content"
            How to find changes in the source since an earlier run of the same job. Changed shards are made again, under
            new names, and all others are kept. ``"metadata"`` finds new, grown and redefined arrays, and makes the last blocks
            of a grown array again; it does not find data that were overwritten in place. ``"listing"`` compares each key's
            size and time of change, ETag or CRC-32. ``"content"`` reads all bytes. Both also make shards again whose last run
            used a weaker comparison.
        digest : bool
            Keep digests of the decoded data, so that ``verify(level="decoded")`` needs no source. Written chunks are decoded
            in memory for this, without a second read. A chunk that can't be decoded fails its shard.
        retries : int
            The number of repeated attempts for a shard after a temporary error, such as a network error.
        max_failures : int
            The number of failed shards that ends the job. Three successive failures by a cause that concerns all shards, such
            as refused access or a full disk, end it as well. In a lazy job, the limits hold for each task.
        max_base : str or int
            The largest decoded size of the base. The base is one object: one task makes it, and makes it again as a whole when
            anything in it changes. A larger base is refused, or gives a notice for one ordinary Zarr.
        accept_failed : iterable of str
            The names of shards that may fail, like ``"t2m[5]"``. The config is then published with holes in their places,
            and ``summary.holes`` lists them. Reading a hole raises `HoleError`, and the next run of the same call tries it
            again. The base can't be a hole, nor can shards of one ordinary Zarr, which would be read as fill values.
        max_missing : int
            The number of other shards that may become holes in the same way.
        overwrite : bool
            Write to a destination that holds something else. Existing objects stay beside the new ones, and the new config
            replaces the old one at the end. For one ordinary Zarr: write over the result of the same source and chain.
        consolidated : bool, optional
            Write consolidated metadata for the root and for every group of the source that has some (True), or none at
            all (False); None writes it for the groups that have some. It is rebuilt, not copied, except in the members of a
            collection. If no shard is mounted below a group, it is in the group's own object, which then opens by it alone.
        to : str or path, optional
            For a function: the folder for the config and the ledger. Without it, the result is only returned.
        storage_options : mapping or str, optional
            Options of the object store of `to`; a sink has its own options.
        move : Move, optional
            Delete the source: the chunks of each shard as soon as its result was verified, and the rest at the end. See `Move` for
            the conditions.
        guards : Guards, optional
            The checks of a changed source before a new result replaces the published one. By default, all are made.
        objects : ObjectAttributes
            The storage class, tags, metadata, encryption and checksum of the objects of shards. The config and the ledger
            do not get them.
        limits : Limits
            The most requests and bytes in a second, for all workers together, and the most memory for shards in each worker.
        portable : bool
            Change the codecs and chunk keys that some known readers lack, with equal values: `MakePortable` is added, and `MigrateV3`
            gets its portable options. Features that no step can change, such as data types, are refused. ``plan.estimate()``
            lists the readers, also without this option.
        source_moved_from : str or path, optional
            The URL of the source when an earlier run made the result, if it was moved since. The shards of that run are
            kept, after a few were made again and compared.

        Returns
        -------
        JobPlan
            The checked job. It can be shown and run.

        Raises
        ------
        UsageError
            If the job can't run.
        GuardsFailed
            If a guard refuses the changed source.

        See Also
        --------
        map_shards : Plan a job, and run it.

        Examples
        --------
        >>> import tempfile, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import Recompress, ToZip
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(4000,), chunks=(10,), dtype="f8")
        ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (200,)})
        ...     plan = store.plan(Recompress("zstd", level=5), ToZip(f"{folder}/zips"))
        >>> plan.chain, plan.shard_count, plan.notices
        ('Recompress, ToZip', 21, ())
        """
        if portable:
            from shardedstore.choose.portable import check_portable, portable_chain

            chain = portable_chain(chain)
        plan = plan_job(
            self.config,
            chain,
            self.notices,
            ShardedStore._of,
            on_error=on_error,
            changed=changed,
            digest=digest,
            retries=retries,
            max_failures=max_failures,
            max_base=max_base,
            accept_failed=accept_failed,
            max_missing=max_missing,
            overwrite=overwrite,
            consolidated=consolidated,
            to=to,
            storage_options=storage_options,
            move=move,
            guards=guards,
            objects=objects,
            limits=limits,
            source_moved_from=source_moved_from,
        )
        if portable:
            check_portable(plan)
        return plan

    @overload
    def map_shards(
        self,
        *chain: Step | Sink | StoreFunction,
        compute: Literal[True] = True,
        progress: Shown = None,
        callbacks: Iterable[Callback] = (),
        report: bool | Target = True,
        **options: Unpack[JobOptions],
    ) -> ShardedStore: ...

    @overload
    def map_shards(
        self, *chain: Step | Sink | StoreFunction, compute: Literal[False], **options: Unpack[JobOptions]
    ) -> Delayed: ...

    def map_shards(
        self,
        *chain: Step | Sink | StoreFunction,
        compute: bool = True,
        progress: Shown = None,
        callbacks: Iterable[Callback] = (),
        report: bool | Target = True,
        **options: Unpack[JobOptions],
    ) -> ShardedStore | Delayed:
        """Run a chain of transforms over every shard with Dask, and return the store of the results.

        The source is never changed, unless `move` asks for its deletion. Each shard is published and recorded when it is done, so that the same call resumes the
        job after any interruption. The config, ``shardedstore.json``, is written last: it is the only proof of success.

        Parameters
        ----------
        *chain
            Steps and then one sink, such as ``ToZip(url)``, or a function of stores; see `plan`.
        compute : bool
            True runs the job now, on the active Dask scheduler. False returns a lazy Dask object that runs it. Secret storage
            options are sent to the workers of the cluster that is active at that time, and are not in the object.
        progress : bool, "bar" or callable, optional
            By default, a bar on a terminal and a view in a notebook show the shards, decoded bytes, rate, time left, failures
            and workers. Elsewhere, True prints a line a minute on standard error, and ``"bar"`` shows the bar. False shows
            nothing. A function is called with the number of ended shards and the number of all shards.
        callbacks : iterable of Callback
            Callbacks for the start of the job, the end of each task, and the end of the job.
        report : bool or str or path
            The place of the report of this run: beside the ledger, or a folder, or the name of an HTML file. False writes
            none. A lazy job writes none.
        **options
            Options of `plan`: `on_error`, `changed`, `digest`, `retries`, `max_failures`, `max_base`, `accept_failed`, `max_missing`,
            `overwrite`, `consolidated`, `to`, `storage_options`, `move`, `guards`, `objects`, `limits` and `portable`.

        Returns
        -------
        ShardedStore or dask.delayed.Delayed
            The store of the results, with a `summary` of the job; with ``compute=False``, a lazy object of this store.

        Raises
        ------
        UsageError
            If the job can't run. Nothing has run then.
        ShardsFailed
            If shards failed, unless ``on_error="partial"`` or the failures were accepted: one error for each shard. No config
            is written, and finished shards stay.

        See Also
        --------
        plan : Look at a job before it runs.
        verify : Compare the result with the ledger or the source.

        Examples
        --------
        >>> import numpy as np
        >>> import tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", data=np.arange(8), chunks=(2,))
        ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)})
        ...     new = store.map_shards(ToZip(f"{folder}/zips"))
        ...     new.verify(store).ok
        True
        """
        if compute:
            return self.plan(*chain, **options).run(progress, callbacks, report)
        if progress or callbacks:
            raise UsageError("progress and callbacks are for jobs that run now: leave them out, or compute=False")
        return self.plan(*chain, **options).to_delayed()

    @contextmanager
    def credentials_on(self, client: Client) -> Iterator[None]:
        """Give the workers of a cluster the credentials that reading this store needs, until the block ends.

        Jobs do this by themselves. Other work on the cluster, such as reading with xarray, needs this method, as
        `storage_options` stay in the process that received them, and are in no graph and no pickle.

        Parameters
        ----------
        client : distributed.Client
            The client of the cluster. Workers that start later also get the credentials.

        Raises
        ------
        UsageError
            If the client is asynchronous.

        Examples
        --------
        With a client of a cluster, and a store whose source needs secret options::

            with store.credentials_on(client):
                xr.open_zarr(store, chunks={}).mean("time").compute()
        """
        from shardedstore.jobs.executors.credentials import credentials_on  # imports distributed

        with credentials_on(client, source_urls(self.config)):
            yield

    def to_kerchunk(self, path: Target, *, parquet: bool = False, storage_options: StorageOptions = None) -> int:
        """Write references in Kerchunk's format, by which other readers open the store as one Zarr.

        Metadata documents are copied into the references. A chunk is a reference to its byte range in a file or object, such as
        a zip of `ToZip`; no chunk is read. The references hold absolute URLs, so they end when the files are moved.

        Parameters
        ----------
        path : str or path
            The JSON file, or the folder of the Parquet files.
        parquet : bool
            Write a folder of Parquet files instead of one JSON file, for large stores of Zarr v2. This needs pyarrow.
        storage_options : mapping or str, optional
            Options of the object store of `path`; see `partition`.

        Returns
        -------
        int
            The number of references.

        Raises
        ------
        UsageError
            If a value is no byte range of a file, or if the format can't hold the store.
        HoleError
            If a shard is a hole, because other readers would show fill values.
        DestinationError
            If a file can't be written.

        See Also
        --------
        to_icechunk : Write references to an Icechunk repository.

        Notes
        -----
        The format is described in https://fsspec.github.io/kerchunk/spec.html.

        Examples
        --------
        >>> import json, tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     array = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(6,), chunks=(2,), dtype="i4")
        ...     array[:] = 1
        ...     new = ShardedStore.partition(f"{folder}/era5.zarr").map_shards(ToZip(f"{folder}/zips"))
        ...     number = new.to_kerchunk(f"{folder}/era5.json")
        ...     with open(f"{folder}/era5.json") as file:
        ...         references = json.load(file)["refs"]
        >>> number, sorted(references)
        (5, ['t2m/c/0', 't2m/c/1', 't2m/c/2', 't2m/zarr.json', 'zarr.json'])
        """
        from shardedstore.export.kerchunk import write_json, write_parquet

        return (write_parquet if parquet else write_json)(self, path, storage_options)

    def to_icechunk(self, repository: Any, *, branch: str = "main") -> int:
        """Commit virtual references to an Icechunk repository, which then shows the store as one Zarr.

        No chunk is read. Each file is pinned by its ETag or its modification time, so that Icechunk refuses chunks of a file that
        was replaced. Large stores take several commits, and an interrupted export continues after the last one. An export replaces
        the earlier export of the branch; its commits stay in the history.

        Parameters
        ----------
        repository : icechunk.Repository
            An opened repository. It has a virtual chunk container whose prefix is the folder of the files. If the container has a
            name, the references are relative to it, and the files can be moved together.
        branch : str
            The branch that receives the commits.

        Returns
        -------
        int
            The number of references.

        Raises
        ------
        UsageError
            If the store is of Zarr v2, if a key is no chunk, if no container has the files, or if the branch
            has other commits than exports.
        HoleError
            If a shard is a hole, because other readers would show fill values.

        See Also
        --------
        to_kerchunk : Write references to a file.
        """
        from shardedstore.export.icechunk import to_icechunk

        return to_icechunk(self, repository, branch)

    def to_tensorstore(
        self, path: Target | None = None, *, storage_options: StorageOptions = None
    ) -> dict[str, dict[str, Any]]:
        """Return specs of TensorStore, by which it opens each array with all shards.

        A divided array is a stack of the arrays in its shards. No chunk is read. The specs hold absolute URLs, so they end when
        the files are moved. They hold no credentials.

        Parameters
        ----------
        path : str or path, optional
            A folder. One JSON file for each array is written there, such as ``t2m.json``; ``array.json`` for an array at the root.
        storage_options : mapping or str, optional
            Options of the object store of `path`; see `partition`.

        Returns
        -------
        dict of str to dict
            The specs by the paths of the arrays, as `tensorstore.open` takes them.

        Raises
        ------
        UsageError
            If TensorStore can't read the codecs or the type of an array, or if shards are not Zarrs in files or folders.
        HoleError
            If a shard is a hole.
        DestinationError
            If a file can't be written.

        See Also
        --------
        to_kerchunk : Write references to a file.

        Notes
        -----
        The format is described in https://google.github.io/tensorstore/driver/stack/.

        Examples
        --------
        >>> import tempfile, dask, tensorstore, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     array = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(6,), chunks=(2,), dtype="i4")
        ...     array[:] = range(6)
        ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)})
        ...     specs = store.map_shards(ToZip(f"{folder}/zips")).to_tensorstore()
        ...     values = tensorstore.open(specs["t2m"]).result()[:].read().result()
        >>> specs["t2m"]["driver"], len(specs["t2m"]["layers"]), values.tolist()
        ('stack', 2, [0, 1, 2, 3, 4, 5])
        """
        from shardedstore.export.tensorstore import write_specs

        return write_specs(self, path, storage_options)

    def verify(
        self,
        against: Store | Target | None = None,
        *,
        level: Level | None = None,
        resume: bool | Target = True,
        mark: bool = False,
        include: Paths | None = None,
        exclude: Paths | None = None,
        storage_options: StorageOptions = None,
    ) -> VerifyReport:
        """Compare the result of a job with its ledger, or with its source, on the active Dask scheduler.

        No data is changed, and differences raise no exception. The report names the arrays, shards and chunks, and the next
        step. After an interruption, the same call skips the parts that were found right.

        Parameters
        ----------
        against : ShardedStore, Store, str or path, optional
            The source, or any other Zarr.
        level : "exists", "stored" or "decoded", optional
            ``"exists"`` checks by one listing that every object exists, with the size in the ledger. ``"stored"`` reads all
            bytes and compares them with the ledger; it is the default without a source. ``"decoded"`` compares the decoded
            data with those of the source by digests, whatever their codecs, format and shards; it is the default with a
            source. Arrays with other chunk shapes are compared block by block. Every NaN equals every NaN, zeros of different
            signs differ, and missing chunks hold the fill value. Both stores are read once, and differing arrays twice. Without a source, the data are compared with the
            digests of ``map_shards(..., digest=True)``, or else with the source in the ledger, as far as the job included it.
        resume : bool or str or path
            Store the findings until the end, so that the same call can resume. True stores them beside the ledger; if that is
            read-only, they are not stored and the report has a note. A path names another folder. False stores none.
        mark : bool
            Record the differing shards in the ledger, so that the same `map_shards` call makes exactly these again.
        include, exclude : str or iterable of str, optional
            Paths and globs of groups and arrays to compare with `against`, or to leave out.
        storage_options : mapping or str, optional
            Options of the object store of `against`; see `partition`.

        Returns
        -------
        VerifyReport
            The differences, and the next step. ``ok`` tells that there are none.

        Raises
        ------
        UsageError
            If there is nothing to compare with: no ledger and no source, or for ``level="decoded"`` a ledger that lacks
            digests of some shards, or lacks all of them and names no usable source.

        See Also
        --------
        map_shards : Make the result, and its damaged shards again.

        Examples
        --------
        >>> import numpy as np
        >>> import os, tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", data=np.arange(8), chunks=(2,))
        ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)})
        ...     new = store.map_shards(ToZip(f"{folder}/zips"))
        ...     os.remove(f"{folder}/zips/t2m/1.zarr.zip")
        ...     report = new.verify(level="exists")
        >>> report.ok, [difference.shard for difference in report.differences]
        (False, ['t2m[1]'])
        """
        other = None
        if isinstance(against, ShardedStore):
            other = against.config
        elif against is not None:
            other = Config(locate(against, storage_options))
        place = resume if isinstance(resume, bool) else os.fspath(resume)
        return verify(self.config, other, level, place, mark, include, exclude)

    @staticmethod
    def finish_move(destination: Target, *, storage_options: StorageOptions = None) -> str | None:
        """Delete the rest of the source of a move whose result is complete.

        A job that was killed at its very end leaves documents of the source. They can't be opened any more, so the same call
        can't go on. The command line does this by itself.

        Parameters
        ----------
        destination : str or path
            The folder of the result.
        storage_options : mapping or str, optional
            Options of its object store; see `partition`.

        Returns
        -------
        str or None
            The name of the source, which is moved; None if the folder has no move that is so far.

        Raises
        ------
        DestinationError
            If the rest can't be deleted, or if another job uses the destination.

        See Also
        --------
        plan : Its option `move` makes a job a move.

        Examples
        --------
        >>> import tempfile
        >>> from shardedstore import ShardedStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(ShardedStore.finish_move(folder))
        None
        """
        return finish_move(destination, storage_options)

    def info(self, *, count: bool = False) -> StoreInfo:
        """Describe the groups and arrays of the store, and its division into shards. Only metadata is read.

        Parameters
        ----------
        count : bool
            List the store, for exact numbers of chunk files and their stored bytes. A store of several components has the
            numbers of its objects, and not of the chunks in them.

        Returns
        -------
        StoreInfo
            The data types, shapes, chunks, codecs, sizes and shards. It is shown as a tree, in a notebook with pictures of
            the chunks and shards of arrays; `to_dataframe` returns a table of pandas.

        Raises
        ------
        PartitionError
            If a component holds no Zarr or can't be read.
        DestinationError
            If the store can't be listed.

        See Also
        --------
        shards : The shards of the store, one by one.
        plan : The plan of a job for them.

        Examples
        --------
        >>> import zarr
        >>> from shardedstore import ShardedStore
        >>> source = zarr.storage.MemoryStore()
        >>> _ = zarr.create_array(source, name="t", shape=(720, 4), chunks=(24, 4), dtype="f4", compressors=None)
        >>> print(ShardedStore.partition(source, {"t": (240, -1)}).info())
        <ShardedStore of ... and 3 shards at 1 path>
          1 array in 1 group: 11.25 kiB decoded; at most 32 files
          t  720 x 4  11.25 kiB  3 shards
              float32, shards of 240 x 4, at most 30 chunks of 24 x 4, not compressed
        """
        plan = make_plan(self.config)
        found = info_of(str(self), plan.config, plan.nodes, (*self.notices, *plan.notices))
        return counted(found, plan) if count else found

    def report(self, number: int | None = None) -> Report:
        """Read the report of the last run of the job that made this store, or of an earlier run.

        Parameters
        ----------
        number : int, optional
            The number of the run, as in the name of its file, ``report-<number>.json`` beside the ledger.

        Returns
        -------
        Report
            The sizes before and after, the slow, repeated and failed shards, and the time line. It is shown as HTML in a
            notebook; `to_html` returns a whole document.

        Raises
        ------
        UsageError
            If the ledger is not found, or has no such report.

        See Also
        --------
        records : Return the record of each shard.

        Examples
        --------
        >>> import tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(8,), chunks=(2,), dtype="i4")
        ...     new = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)}).map_shards(ToZip(f"{folder}/zips"))
        ...     report = new.report()
        >>> report.state, report.done, report.failed
        ('done', 3, 0)
        """
        return read_report(self._result_job().folder, number)

    def records(self) -> Records:
        """Read the ledger of the job that made this store.

        Returns
        -------
        Records
            The record of each shard: sizes, seconds, attempts and worker. Its `to_dataframe` returns a table of pandas.

        Raises
        ------
        UsageError
            If the ledger is not found.

        See Also
        --------
        report : Return the report of a run.

        Examples
        --------
        >>> import tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(8,), chunks=(2,), dtype="i4")
        ...     new = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)}).map_shards(ToZip(f"{folder}/zips"))
        ...     records = new.records()
        >>> len(records), [record.shard for record in records]
        (3, ['(base)', 't2m[0]', 't2m[1]'])
        """
        return Records(self._result_job())

    def _result_job(self) -> ResultJob:
        folder = self.partial.folder if self.partial is not None else None
        job = find_result_job(self.config) if folder is None else job_in(folder)
        if job is None:
            raise UsageError(
                f"the ledger of {str(self)!r} is not found beside its shards: open the result of a job, with ShardedStore.load"
            )
        return job

    def get_config(self) -> dict[str, Any]:
        """Return the JSON document that describes this store, with absolute URLs.

        Returns
        -------
        dict
            The content of a config file.

        Warns
        -----
        UserWarning
            If an array of `array_shard_funcs` does not exist yet, as the config will not lead to its shards.

        See Also
        --------
        from_config : Return the store of this document.
        save : Write this document to a file or object.

        Examples
        --------
        >>> from shardedstore import ShardedStore
        >>> config = ShardedStore("/data/base.zarr", {"wind": "/data/wind.zarr"}, read_only=True).get_config()
        >>> config["version"], config["base"]
        (1, {'kind': 'directory', 'url': '/data/base.zarr'})
        """
        config = self.config
        self._warn_of_arrays_to_come()
        return configs.to_dict(config)

    def _warn_of_arrays_to_come(self) -> None:
        for path in self._divided.absent():
            warnings.warn(
                f"{path!r} does not exist yet, so this config will not lead to its shards: save the config again later",
                stacklevel=3,
            )

    @classmethod
    def from_config(cls, config: object, *, root: Target | None = None, allow: Iterable[Target] | None = None) -> Self:
        """Return the store that a JSON document describes.

        Parameters
        ----------
        config : mapping
            A config from `get_config`, also one from shardedstore 0.3.1.
        root : str or path, optional
            The folder for relative URLs.
        allow : iterable of str, optional
            The only places outside `root` that the config may name; None allows all places.

        Returns
        -------
        ShardedStore
            A read-only store. Its components are opened when they are read.

        Raises
        ------
        ConfigError
            If the document is not a valid config. The error names the field.

        See Also
        --------
        load : Open a config from a file or an object store.

        Examples
        --------
        >>> import numpy as np
        >>> import tempfile, zarr
        >>> from shardedstore import ShardedStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", data=np.arange(8), chunks=(2,))
        ...     config = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)}).get_config()
        ...     zarr.open_array(ShardedStore.from_config(config), path="t2m", mode="r")[:].tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
        """
        folder = None if root is None else normalize(root)
        places = None if allow is None else [os.fspath(place) for place in allow]
        if is_legacy(config):
            return cls._of(parse_legacy(config, folder, None, places))
        return cls._of(configs.from_dict(config, folder, places))

    def save(self, path: Target, *, storage_options: StorageOptions = None) -> None:
        """Write the config to a file or object, with relative URLs for components in the same folder.

        Parameters
        ----------
        path : str or path
            The file or the URL of the object. An older config there is replaced.
        storage_options : mapping or str, optional
            Options of the object store; see `partition`.

        Raises
        ------
        ConfigError
            If the file can't be written, or is a config of shardedstore 0.3.1.

        Warns
        -----
        UserWarning
            If an array of `array_shard_funcs` does not exist yet, as the config will not lead to its shards.

        See Also
        --------
        load : Open a config from a file or an object store.

        Examples
        --------
        >>> import json, tempfile
        >>> from shardedstore import ShardedStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ShardedStore(f"{folder}/base.zarr", {"wind": f"{folder}/wind.zarr"}).save(f"{folder}/all.json")
        ...     with open(f"{folder}/all.json") as file:
        ...         json.load(file)["base"]["url"]
        'base.zarr'
        """
        config = self.config
        check_saved(config)
        self._warn_of_arrays_to_come()
        url = normalize(path)
        folder, _, name = url.rpartition("/")
        try:
            options = take_options(folder or "/", storage_options)
            place = open_folder(folder or "/", options)
            place.write(unquote_name(name, url), configs.dump(config, folder or "/", options))
        except STORAGE_ERRORS as error:
            raise ConfigError(f"the config can't be written to {url!r}: {explain(error)}") from error

    @classmethod
    def load(
        cls,
        path: Target,
        *,
        partial: bool = False,
        root: Target | None = None,
        allow: Iterable[Target] = (),
        storage_options: StorageOptions = None,
    ) -> Self:
        """Open the store that a config describes, or one zip.

        Parameters
        ----------
        path : str or path
            The config's path or URL, which ends in ``.json``, or the folder that holds a ``shardedstore.json``. A zip (``.zip``,
            ``.ozx``) with one Zarr needs no config: it is opened as the only shard.
        partial : bool
            Open the latest job's result while the job runs, or after it died. Finished shards are read from the result, and
            the rest from the source, which must be allowed. The data are right at any time. If the chain changes nothing,
            blocks of one array can come from both. If it changes arrays, an array is read from the result when all of it is
            done. If it changes the Zarr format, or writes one ordinary Zarr, the source is read until the job has ended.
            ``store.partial`` describes this, and is None for a job that has ended. The store is a snapshot: load it again
            to see more.
        root : str or path, optional
            For a config of shardedstore 0.3.1: the folder of its relative paths. By default, or if these paths do not exist,
            it is the config's folder, or else the working directory.
        allow : iterable of str
            Places outside the config's folder that it may name, and endpoints that may receive requests.
        storage_options : mapping or str, optional
            Options of the object store that holds the config; they also apply to the components beside it. See `partition`.

        Returns
        -------
        ShardedStore
            A read-only store. Its components are opened when they are read.

        Raises
        ------
        ConfigError
            If the file is not a config, or names other places outside its folder.
        PartitionError
            If a zip holds no Zarr or several, or is not written yet.

        See Also
        --------
        save : Write a config.
        partition : Open any Zarr, and divide it.

        Examples
        --------
        >>> import numpy as np
        >>> import tempfile, zarr
        >>> from shardedstore import ShardedStore
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", data=np.arange(8), chunks=(2,))
        ...     ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)}).save(f"{folder}/shardedstore.json")
        ...     zarr.open_array(ShardedStore.load(folder), path="t2m", mode="r")[:].tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
        """
        zipped = normalize(split_inside(path)[0])
        is_zip = is_zip_name(zipped) and not os.path.isdir(zipped)
        if is_zip and not (partial and find_job_folder(zipped, take_options(zipped, storage_options))):
            return cls.partition(path, [], storage_options=storage_options)
        url = normalize(path)
        if not url.endswith(".json") or os.path.isdir(url):
            url = join_url(url, FILE_NAME)
        folder, _, name = url.rpartition("/")
        options = take_options(folder or "/", storage_options)
        places = [os.fspath(place) for place in allow]
        try:
            if partial and (job := find_job_folder(folder or "/", options)) is not None:
                if (found := load_partial(job, options, places)) is not None:
                    return cls._of(found[0], partial=found[1])
                folder = job.url
                url = join_url(folder, name)
            data = open_folder(folder or "/", options).read(unquote_name(name, url))
        except STORAGE_ERRORS as error:
            cause = getattr(error, "strerror", None) or explain(error)
            is_source = is_zarr(folder, options)
            hint = f"; {folder!r} is a Zarr: open it with ShardedStore.partition" if is_source else similar_path(folder)
            if isinstance(error, FileNotFoundError) and (half := unfinished(folder or "/", options)):
                raise ConfigError(
                    f"there is no config at {url!r} yet, as the job has not ended: {half}; {GO_ON}"
                ) from error
            raise ConfigError(f"no config can be read at {url!r}: {cause}{hint}") from error
        try:
            document = configs.parse(data)
            if is_legacy(document):
                start = None if root is None else normalize(root)
                return cls._of(parse_legacy(document, start, folder or "/", places, options))
            return cls._of(configs.from_dict(document, folder or "/", places, options))
        except ConfigError as error:
            raise ConfigError(f"{url!r}: {error}") from None

    @staticmethod
    def prune(
        path: Target,
        *,
        keep_last: int = 1,
        older_than: float | str = 0,
        dry_run: bool = False,
        storage_options: StorageOptions = None,
    ) -> Pruned:
        """Remove objects of earlier jobs at a destination that no config names.

        Three kinds of files are removed: objects of earlier jobs, if neither a config in the folder names them nor an
        unfinished job needs them; the ledgers and files of jobs without remaining objects; and partly written files of killed
        processes. Files of unknown origin are kept. Objects that differ from their record are kept too, and are
        listed in the result. Readers that still use an earlier config, or a copy of one elsewhere, lose its objects.

        Parameters
        ----------
        path : str or path
            The folder or URL that a job wrote to.
        keep_last : int
            Keep the objects of this many published results, so that readers of an earlier one go on. The latest result counts.
        older_than : float or str
            Keep objects that were written or replaced in this time before the call: seconds, or a text such as ``"30d"``. An object counts as replaced when the first config without it was written, or at the latest possible
            time of this.
        dry_run : bool
            Return the files that would be removed, and remove nothing.
        storage_options : mapping or str, optional
            Options of the object store; see `partition`.

        Returns
        -------
        Pruned
            The names of the removed files, their size in bytes, and the kept files.

        Raises
        ------
        UsageError
            If no job ever wrote to this place, or if `keep_last` or `older_than` is not valid.
        DestinationError
            If a job is running there, or if a file can't be removed. Files that were already removed stay removed.
        ConfigError
            If a config in the folder can't be read, as it may name existing objects.

        See Also
        --------
        map_shards : A later run of a job replaces objects of changed shards.

        Examples
        --------
        >>> import tempfile, dask, zarr
        >>> from shardedstore import ShardedStore
        >>> from shardedstore.transforms import ToZip
        >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        ...     array = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(6,), chunks=(2,), dtype="i4")
        ...     array[:] = 1
        ...     _ = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)}).map_shards(ToZip(f"{folder}/zips"))
        ...     array.resize((8,))  # the last block and the metadata change
        ...     array[6:] = 1
        ...     _ = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)}).map_shards(ToZip(f"{folder}/zips"))
        ...     ShardedStore.prune(f"{folder}/zips", dry_run=True).names
        ['__base__.zarr.zip', 't2m/1.zarr.zip']
        """
        url = normalize(path)
        retention = parse_retention(keep_last, older_than)
        return prune(url, take_options(url, storage_options), retention=retention, dry_run=dry_run)

    @staticmethod
    def upload_rule(path: Target, days: int = 7) -> dict[str, Any] | None:
        """Return the bucket's lifecycle rule that removes unfinished uploads below a URL.

        A killed worker leaves parts of its upload in the bucket. No listing shows them, and `prune` can't see them. The rule
        removes them some days after the upload began.

        Parameters
        ----------
        path : str or path
            The destination of a job.
        days : int
            The age of an upload, in days, at which its parts are removed.

        Returns
        -------
        dict or None
            The JSON document for ``aws s3api put-bucket-lifecycle-configuration`` or ``gcloud storage buckets update
            --lifecycle-file``. None if no rule is needed: for local folders, and for Azure, which removes them after a week.

        See Also
        --------
        prune : Remove objects of earlier jobs.

        Examples
        --------
        >>> from shardedstore import ShardedStore
        >>> ShardedStore.upload_rule("s3://bucket/era5-zips")["Rules"][0]["AbortIncompleteMultipartUpload"]
        {'DaysAfterInitiation': 7}
        """
        if type(days) is not int or days < 1:
            raise UsageError(f"days={days!r} is not a number of days: say 1 or more")
        return upload_rule(normalize(path), days)

    def __str__(self) -> str:
        return super().__repr__()  # one line, for messages and reprs of zarr

    def _known_info(self) -> StoreInfo | None:
        """Return the groups and arrays, if `partition` has read them."""
        return None if self._nodes is None else info_of(str(self), self.known_config, self._nodes, self.notices)

    def __repr__(self) -> str:
        if info := self._known_info():
            return repr(info)
        return to_text(str(self), self.known_config, self.summary, self.partial)

    def _repr_html_(self) -> str:
        if info := self._known_info():
            return info._repr_html_()
        return to_html(type(self).__name__, self.known_config, self.summary, self.partial)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "summary": self.summary, "partial": self.partial, "notices": self.notices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.summary, self.partial, self.notices = state["summary"], state["partial"], state["notices"]


def _unfinished(location: Location) -> str:
    """Return the progress of an unfinished job whose result is not a Zarr yet; empty for anything else."""
    if not isinstance(location, Place) or location.files_url is None:
        return ""
    if location.is_folder and is_zarr(location.url, location.options):
        return ""
    return unfinished(location.url, location.options)


def _is_plain(store: Store) -> bool:
    """Tell whether a store is a plain writable folder, so that its absolute path can replace it."""
    return type(store) is LocalStore and not store.read_only
