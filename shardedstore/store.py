"""`ShardedStore`, the public face: any Zarr as shards, mapped with Dask, and opened again from a config."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from zarr.abc.store import Store
from zarr.storage import LocalStore

from shardedstore.config import document as configs
from shardedstore.config.legacy import check_saved, parse_legacy
from shardedstore.config.legacy_document import is_legacy
from shardedstore.display.describe import to_html, to_text
from shardedstore.display.progress import Shown
from shardedstore.display.shards import Shards as StoredShards
from shardedstore.errors import ConfigError, PartitionError, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.callbacks import Callback
from shardedstore.jobs.change_detection import Changed
from shardedstore.jobs.credentials import reading
from shardedstore.jobs.job_plan import JobOptions, JobPlan, OnError, plan_job
from shardedstore.jobs.object_sizes import MAX_BASE
from shardedstore.jobs.partial import find_job, load_partial, unfinished
from shardedstore.jobs.prune import Pruned, prune
from shardedstore.jobs.summary import Partial, Summary
from shardedstore.jobs.worker import MOST_FAILURES
from shardedstore.notices import Notice
from shardedstore.partition.collect import collect
from shardedstore.partition.partition import divide_noting
from shardedstore.partition.patterns import Paths, Shards
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import join_url, normalize, unquote_name
from shardedstore.stores.hierarchy import is_zarr
from shardedstore.stores.locations import Config, Directory, Location, Mount, show
from shardedstore.stores.recognise import locate
from shardedstore.stores.registry import open_location
from shardedstore.stores.routes import BASE, Place
from shardedstore.transforms.base.chain import Sink, Step, StoreFunction
from shardedstore.verify.report import Level, Report
from shardedstore.verify.verify import verify
from shardedstore.writing.arrayshards import ArrayShardFuncs, parse_rules
from shardedstore.writing.writable import WritableStore
from shardedstore.zarr.paths import Mounts, check_path

if TYPE_CHECKING:
    from dask.delayed import Delayed
    from distributed import Client

Target = str | os.PathLike[str]
GO_ON = "run the same call again, or open what there is with ShardedStore.load(..., partial=True)"


class ShardedStore(WritableStore):
    """A zarr store made of a base and of component stores mounted at paths in it.

    Made like this it can be written to, as far as its components can. What `partition`, `load`, `from_config` and
    `map_shards` return is read-only.

    Parameters
    ----------
    base : Store, str or path
        Holds everything that no component does.
    shards : mapping of str to Store, str or path, optional
        What is mounted at each path; no path may lie inside another.
    array_shard_funcs : mapping of str to (shape, factory), optional
        Arrays that become shards when they are written, by path: the number of leading dimensions along which each chunk
        is in a shard of its own, or the shards' shape in elements, like ``(720, -1)`` or ``{"time": 720}``; and a function
        that returns the store of a shard from the index of its block, like ``"0/2"``, such as
        ``array_shard_directory_store(prefix)``. The shards appear when the array's metadata is written; each holds the
        metadata of its own block. What is there is kept when the array is resized or its metadata is written again,
        and deleted with the array.
    read_only : bool
        Refuse to write.

    Raises
    ------
    UsageError, PartitionError
        For paths that overlap, and for an array that is there already and is not in such shards.

    Attributes
    ----------
    summary : Summary or None
        What the job did that made this store.
    partial : Partial or None
        Where the store shows a job that has not ended: how many shards are shown from their new place, and why the others
        are not.
    notices : tuple of Notice
        Warnings about how the store was divided, which become those of a job.
    """

    summary: Summary | None = None
    partial: Partial | None = None
    notices: tuple[Notice, ...] = ()

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
        stores: dict[Place, Store | Target] = {BASE: base}
        stores.update(((path, None), store) for path, store in (shards or {}).items())
        given = {place: store for place, store in stores.items() if isinstance(store, Store) and not _is_plain(store)}
        super().__init__(Config(locate(base), mounts), open_location, given, rules, is_writable=True)
        self._read_only = read_only
        self.look()

    @classmethod
    def _of(cls, config: Config, summary: Summary | None = None, partial: Partial | None = None) -> Self:
        store = cls.__new__(cls)
        WritableStore.__init__(store, config, open_location)
        store.summary = summary
        store.partial = partial if summary is None else summary.partial
        return store

    @property
    def shards(self) -> StoredShards:
        """The shards, to look at and to pick from: ``store.shards["temperature", 3].open()``."""
        return StoredShards(self.config)

    @classmethod
    def partition(
        cls,
        source: Store | Target,
        shards: Shards = "1 GiB",
        *,
        include: Paths | None = None,
        exclude: Paths | None = None,
        storage_options: StorageOptions = None,
    ) -> Self:
        """Look at any Zarr as a collection of shards: nothing is copied, and chunks are not listed.

        Parameters
        ----------
        source : Store, str or path
            A zarr store, a local folder or zip, or a URL of an object store.
        shards
            How to divide it. A size (``"512 MiB"``, or bytes) cuts every larger array into blocks of about that much
            decoded data, and leaves the rest in the base. A list of paths or globs makes each one whole shard. A
            mapping gives for each path or glob ``"whole"``, a size, or the shards' size in elements, as a shape or by
            the names of dimensions; -1 is the whole dimension, and a size must be a whole number of chunks. A rule by
            dimension names, for a glob, skips arrays that lack them or are too small, with a notice. The most
            specific pattern wins; ``*`` alone matches everything that is left, and is ``"1 GiB"`` if not given. ``"base"``
            keeps its arrays undivided in the base. An empty list (``[]``) keeps all arrays there.

            In globs, ``*`` and ``?`` match within one segment, ``**`` across segments, ``[a-z]`` one letter of a range, and
            ``{a,b}`` one of the alternatives; ``[*]`` is a literal ``*``. A ``?`` at the end is not part of the pattern: it
            allows the pattern to match nothing, which is an error otherwise.
        include : str or list of str, optional
            Paths or globs of the groups and arrays to keep, with all below them; of the groups above, their metadata
            documents are kept. None is everything. Files that are no Zarr are kept where their group is.
        exclude : str or list of str, optional
            Paths or globs of the groups and arrays to leave out of what is included, with all below them: they are
            neither listed nor read, and consolidated metadata does not name them.
        storage_options : mapping or str, optional
            Options of the object store by obstore's names, or ``"anonymous"``. What is public, such as an endpoint,
            stands in the config; all else, such as keys, is held by this process and its workers only. Without them,
            the environment's are used.

        Raises
        ------
        PartitionError
            For what can't be divided as asked, and for what is to be kept or left out and is not there.
        """
        location = locate(source, storage_options)
        try:
            config, notices = divide_noting(location, shards, include, exclude)
        except PartitionError as error:
            if half := _unfinished(location):
                raise PartitionError(
                    f"{show(location)} is the result of a job that has not ended: {half}; {GO_ON}"
                ) from error
            raise
        store = cls._of(config)
        store.notices = notices
        return store

    @classmethod
    def collect(
        cls,
        pattern: Target,
        *,
        names: Iterable[str] | None = None,
        storage_options: StorageOptions = None,
    ) -> Self:
        """Look at many independent Zarrs, of one format, as shards of one Zarr: each is a group or an array below a new root.

        They are listed once, and only the metadata of the first is read: what is wrong with another, such as a folder that
        matches and is no Zarr, is told when it is read, by its name.

        Parameters
        ----------
        pattern : str or path
            A local path or a URL of an object store with ``*`` for a part of one segment or of several, like
            ``"cells/*.zarr"`` or ``"s3://bucket/plates/*/*.zarr"``. What ``*`` stands for is a store's name, with what is
            between several of them; the groups on the way to it are made. A pattern that ends in .zip or .ozx is of
            zips, and files match, else folders. Names that begin with a dot don't match ``*``.
        names : iterable of str, optional
            The names, where they are known: nothing is listed then, as for web servers, which can't be.
        storage_options : mapping or str, optional
            Options of the object store; see `partition`.

        Notes
        -----
        With ``changed="metadata"`` a later job sees the members that are new or gone, and not what has changed inside of
        one: ``"listing"`` and ``"content"`` do. Consolidated metadata in a member is carried, unless a step may have changed
        what it is of; there is none of the whole.

        Raises
        ------
        UsageError
            For what is no such pattern.
        PartitionError
            Where nothing matches, or the first that does holds no Zarr.
        """
        return cls._of(collect(pattern, names, storage_options))

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
    ) -> JobPlan:
        """Check a job, and return what it will do. Nothing is written.

        Everything that can be refused before anything runs is refused here. The plan's `run` runs it.

        Parameters
        ----------
        *chain
            Steps and then one sink, such as ``ToZip(url)``; or a single function ``(store, shard_path, chunk_dims) ->
            store``. It gets a component, its path (``""`` for the base), and the index of an array's block, like
            ``"0/2"``, or else None.
        on_error : "finish", "stop" or "partial"
            With "finish" every shard that can be done is done, before the errors of the others are raised together. With
            "stop" the first error ends the job; what is done stays done. With "partial" the errors are not raised but
            warned of, and stand in ``summary.failures``: the store that is returned shows what is done, and for the rest
            the source, as `load` does with ``partial=True``. No config is written then, and the same call goes on.
        changed : "metadata", "listing" or "content"
            How to find changes in the source since an earlier run of the same job. Changed shards are made again, under
            new names, and all others are kept. ``"metadata"`` sees new, grown and
            redefined arrays, and does the last blocks of a grown one again; it does not see what is written in place.
            ``"listing"`` sees each key's size and time of change, ETag or CRC-32, and ``"content"`` reads all bytes; both
            also make again what was last made by a run that looked less closely.
        digest : bool
            Keep digests of the decoded data that is written, so that ``verify(level="decoded")`` needs no source. All that
            is written is decoded once more for it, without being read again, and what can't be decoded fails its shard.
        max_failures : int
            The number of failed shards that ends the job. Three failures in a row of a cause that all shards meet, such as
            refused access or a full disk, end it as well. In a lazy job, the limits hold for each task.
        accept_failed : iterable of str
            The names of shards that may fail, like ``"t2m[5]"``. The config is then published with holes in their places,
            and ``summary.holes`` lists them. Reading a hole raises `HoleError`, and the next run of the same call tries it
            again. The base can't be a hole, nor can shards of one ordinary Zarr, which would be read as fill values.
        max_missing : int
            How many other shards may be missing in the same way.
        max_base : str or int
            How much the base may hold, decoded: as it is one object, one task makes it, and makes it anew as a whole when
            anything in it changes. A larger one is refused; in one ordinary Zarr, where it is one task only, it is warned of.
        retries : int
            How often a shard is tried again after an error that may pass, such as one of the network.
        overwrite : bool
            Write to a destination that holds something else. Existing objects stay beside the new ones, and the new config
            replaces the old one at the end. For one ordinary Zarr: write over the result of the same source and chain.
        consolidated : bool, optional
            Write consolidated metadata for the root and for every group of the source that has some (True), or none at
            all (False); None writes it for the groups that have some. It is rebuilt, not copied, except in the members of a
            collection. If no shard is mounted below a group, it is in the group's own object, which then opens by it alone.
        to : str or path, optional
            For a function: the folder for config and ledger. Without it the result is only returned.
        storage_options : mapping or str, optional
            Options of the object store that `to` leads to; a sink has its own.

        Returns
        -------
        JobPlan

        Raises
        ------
        UsageError
            For what can't be run.

        See Also
        --------
        map_shards : plan a job, and run it.

        Examples
        --------
        >>> plan = store.plan(Recompress("zstd", level=5), ToZip("out"))  # doctest: +SKIP
        >>> plan.shard_count, plan.notices  # doctest: +SKIP
        (21, ())
        >>> new = plan.run(progress=True)  # doctest: +SKIP
        """
        return plan_job(
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
        )

    @overload
    def map_shards(
        self,
        *chain: Step | Sink | StoreFunction,
        compute: Literal[True] = True,
        progress: Shown = None,
        callbacks: Iterable[Callback] = (),
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
        **options: Unpack[JobOptions],
    ) -> ShardedStore | Delayed:
        """Run a chain of transforms over every shard with Dask, and return the store of the results.

        The source is never changed. Each shard is published and recorded when it is done, so that the same call after
        any interruption goes on from there. The config, ``shardedstore.json``, is written last: it is the only proof
        of success.

        Parameters
        ----------
        *chain
            Steps and then one sink, such as ``ToZip(url)``, or a function of stores; see `plan`.
        compute : bool
            Run it now, on the Dask scheduler that is active; otherwise return a lazy Dask object that does it. Secret
            storage options are given to the workers of the cluster that is active then, and are not in the object.
        progress : bool, "bar" or callable, optional
            True shows a bar on a terminal and in a notebook, and lines elsewhere; ``"bar"`` shows a bar in any case. A function is called
            with the number of shards that have ended, and of all.
        callbacks : iterable of Callback
            Objects that are told of the start of the job, of each task that has ended, and of the end.
        **options
            Options of `plan`: `on_error`, `changed`, `digest`, `retries`, `max_failures`, `max_base`, `accept_failed`, `max_missing`,
            `overwrite`, `consolidated`, `to` and `storage_options`.

        Returns
        -------
        ShardedStore or dask.delayed.Delayed
            The store of the results, whose `summary` says what was done; with ``compute=False`` a lazy object of it.

        Raises
        ------
        UsageError
            For what can't be run, before anything runs.
        ShardsFailed
            If shards failed, unless ``on_error="partial"`` or the failures were accepted: one error for each shard. No config
            is written, and finished shards stay.

        See Also
        --------
        plan : look at a job before it runs.
        """
        if compute:
            return self.plan(*chain, **options).run(progress, callbacks)
        if progress or callbacks:
            raise UsageError("progress and callbacks are for jobs that run now: leave them out, or compute=False")
        return self.plan(*chain, **options).to_delayed()

    @contextmanager
    def credentials_on(self, client: Client) -> Iterator[None]:
        """Give the workers of a cluster the credentials that reading this store needs, until the block ends.

        Jobs give them by themselves. Other work on the cluster, such as reading with xarray, needs this, as `storage_options`
        stay in the process that they were given to, and are in no graph and no pickle.

        Parameters
        ----------
        client : distributed.Client
            The client of the cluster. Workers that start later get the credentials, too.

        Raises
        ------
        UsageError
            For an asynchronous client.

        Examples
        --------
        >>> with store.credentials_on(client):  # doctest: +SKIP
        ...     xr.open_zarr(store, chunks={}).mean("time").compute()
        """
        with reading(client, self.config):
            yield

    def verify(
        self,
        against: Store | Target | None = None,
        *,
        level: Level | None = None,
        resume: bool | Target = True,
        mark: bool = False,
        storage_options: StorageOptions = None,
    ) -> Report:
        """Compare the result of a job with its ledger, or with its source, on the Dask scheduler that is active.

        No data is changed, and differences raise no exception: the report names the arrays, shards and chunks, and what to
        do. After an interruption the same call skips the parts that were already found to be right.

        Parameters
        ----------
        against : ShardedStore, Store, str or path, optional
            The source, or any other Zarr.
        level : "exists", "stored" or "decoded", optional
            ``"exists"``: every object is there, with the size that the ledger says, by one listing. ``"stored"``: all
            bytes are read, and are those that were written; the default where the source is not given.
            ``"decoded"``: all data are equal to those of the source, by the digest of decoded data, whatever codecs,
            format and shards they are in; the default where it is given. Both are read once, and arrays that differ twice.
            Without the source, the data are compared with the digests that ``map_shards(..., digest=True)`` kept, or where
            there are none, with the source that the ledger names, as far as the job included it.
        resume : bool or str or path
            Keep the findings until the end, so that the same call can resume. True keeps them beside the ledger; if that is
            read-only, none are kept and the report has a note. A path names another folder. False keeps none.
        mark : bool
            Record in the ledger the shards that differ, so that the same `map_shards` call makes exactly these again.
        storage_options : mapping or str, optional
            Options of the object store of `against`; see `partition`.

        Raises
        ------
        UsageError
            If there is nothing to compare with: no ledger and no source, or for ``level="decoded"`` a ledger that lacks
            digests of some shards, or lacks all of them and names no usable source.
        """
        other = None
        if isinstance(against, ShardedStore):
            other = against.config
        elif against is not None:
            other = Config(locate(against, storage_options))
        return verify(self.config, other, level, resume if isinstance(resume, bool) else os.fspath(resume), mark)

    def get_config(self) -> dict[str, Any]:
        """Return the JSON document that describes this store, with absolute URLs.

        Warns
        -----
        UserWarning
            For an array of `array_shard_funcs` that is not there yet, whose shards it will not lead to.
        """
        config = self.config
        self._warn_of_arrays_to_come()
        return configs.to_dict(config)

    def _warn_of_arrays_to_come(self) -> None:
        for path in self._divided.absent():
            warnings.warn(
                f"{path!r} is not there yet, and this config will not lead to its shards: save it again when they are",
                stacklevel=3,
            )

    @classmethod
    def from_config(cls, config: object, *, root: Target | None = None, allow: Iterable[Target] | None = None) -> Self:
        """Return the store that a JSON document describes.

        Parameters
        ----------
        config : mapping
            What `get_config` returned, also that of shardedstore 0.3.1.
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
        if is_legacy(config):
            return cls._of(parse_legacy(config, folder, None, places))
        return cls._of(configs.from_dict(config, folder, places))

    def save(self, path: Target, *, storage_options: StorageOptions = None) -> None:
        """Write the config to a file or object; components inside its folder are named relative to it.

        Raises
        ------
        ConfigError
            Where it can't be written, and for what shardedstore 0.3.1 wrote.

        Warns
        -----
        UserWarning
            For an array of `array_shard_funcs` that is not there yet, whose shards it will not lead to.
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
        """Open the store that a config describes.

        Parameters
        ----------
        path : str or path
            The config's path or URL, which ends in ``.json``, or that of the folder with a ``shardedstore.json`` in it.
        partial : bool
            Open the latest job's result while the job runs, or after it died. Finished shards are read from the result, and
            the rest from the source, which must be allowed. The data are right at any time. If the chain changes nothing,
            blocks of one array can come from both. If it changes arrays, an array is read from the result when all of it is
            done. If it changes the Zarr format, or writes one ordinary Zarr, the source is read until the job has ended.
            ``store.partial`` describes this, and is None for a job that has ended. The store is a snapshot: load it again
            to see more.
        root : str or path, optional
            For a config of shardedstore 0.3.1: the folder that its relative paths start from. Without it, or where they
            lead to nothing, that is the config's folder, or the working directory.
        allow : iterable of str
            Places outside the config's folder that it may name, and endpoints that it may send requests to.
        storage_options : mapping or str, optional
            Options of the object store that the config is in; they hold for the components beside it as well. See
            `partition`.

        Raises
        ------
        ConfigError
            For a file that is no config, or names places outside its folder that are not allowed.
        """
        url = normalize(path)
        if not url.endswith(".json") or os.path.isdir(url):
            url = join_url(url, FILE_NAME)
        folder, _, name = url.rpartition("/")
        options = take_options(folder or "/", storage_options)
        places = [os.fspath(place) for place in allow]
        try:
            if partial and (job := find_job(folder or "/", options)) is not None:
                if (found := load_partial(job, options, places)) is not None:
                    return cls._of(found[0], partial=found[1])
                folder = job.url
                url = join_url(folder, name)
            data = open_folder(folder or "/", options).read(unquote_name(name, url))
        except STORAGE_ERRORS as error:
            cause = getattr(error, "strerror", None) or explain(error)
            hint = f"; {folder!r} is a Zarr: open it with ShardedStore.partition" if is_zarr(folder, options) else ""
            if isinstance(error, FileNotFoundError) and (half := unfinished(folder or "/", options)):
                raise ConfigError(f"no config is at {url!r} yet, as the job has not ended: {half}; {GO_ON}") from error
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
        older_than: float = 0,
        dry_run: bool = False,
        storage_options: StorageOptions = None,
    ) -> Pruned:
        """Remove what earlier jobs have left at a destination: what no config names, and of that only what is ours.

        These are the objects of earlier jobs that neither a config in the folder names nor the latest job needs, if it has
        not ended; the ledgers and files of jobs of which nothing is left then; and what killed processes left half
        written. Objects that are not as a record says are kept, and told. Who has an earlier config open, or a copy of it
        elsewhere, can't read what only that one names any more.

        Parameters
        ----------
        path : str or path
            The folder or URL that a job wrote to.
        older_than : float
            Keep objects that were replaced or written in the last so many seconds, so that readers which opened an earlier
            result go on. It counts from the moment when a config that does not name them took the place of the last that
            did, or from the latest that this can have been.
        dry_run : bool
            Remove nothing, and say what would be.
        storage_options : mapping or str, optional
            Options of the object store; see `partition`.

        Raises
        ------
        UsageError
            Where no job ever wrote.
        DestinationError
            When a job is at work there, or something can't be removed: what is removed by then stays so.
        ConfigError
            For a config in the folder that can't be read, as it may name what is there.
        """
        url = normalize(path)
        return prune(url, take_options(url, storage_options), older_than=older_than, dry_run=dry_run)

    def __str__(self) -> str:
        return super().__repr__()  # one line, as zarr's own messages and reprs have it in the midst of others

    def __repr__(self) -> str:
        return to_text(str(self), self.known_config, self.summary, self.partial)

    def _repr_html_(self) -> str:
        return to_html(type(self).__name__, self.known_config, self.summary, self.partial)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "summary": self.summary, "partial": self.partial, "notices": self.notices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.summary, self.partial, self.notices = state["summary"], state["partial"], state["notices"]


def _unfinished(location: Location) -> str:
    """Return how far a job is whose result is no Zarr yet; empty for anything else."""
    if not isinstance(location, Directory) or location.url.startswith(("http://", "https://")):
        return ""
    if is_zarr(location.url, location.options):
        return ""
    return unfinished(location.url, location.options)


def _is_plain(store: Store) -> bool:
    """Tell whether a store is nothing but a folder to write to, which its absolute path stands for."""
    return type(store) is LocalStore and not store.read_only
