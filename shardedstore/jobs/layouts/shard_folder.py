"""A folder with one object for each shard, and a config that opens them as one store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import msgspec

from shardedstore.config.document import dump, from_dict, parse, to_dict
from shardedstore.errors import CorruptError, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import CONSOLIDATED, check_lengths, check_names, check_outputs
from shardedstore.jobs.differences import MAKE_AGAIN, Difference
from shardedstore.jobs.layouts.base import ResultLayout, ShardSource, refuse_to
from shardedstore.jobs.layouts.refuse_readers import refuse_readers
from shardedstore.jobs.layouts.result_job import ResultJob, folders_above, known_records, read_job
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import JobManifest, generation_in, generations, ledger_of, read_generation, versioned
from shardedstore.jobs.object_sizes import attribute_notices
from shardedstore.jobs.open_destination import check_latest
from shardedstore.jobs.result_preview import Mixes, ResultPreview, after, blocks_after, members_at, veiled_base
from shardedstore.jobs.shards import Plan, Run, location_of, object_at, shard_runs, target_of
from shardedstore.notices import Notice
from shardedstore.storage.folders import Folder, open_folder
from shardedstore.storage.options import StorageOptions
from shardedstore.storage.urls import is_within, join_url, normalize, object_url, quote_name
from shardedstore.stores.consolidate import consolidate, undocumented
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import Node, read_nodes
from shardedstore.stores.locations import (
    Config,
    Directory,
    Hole,
    Location,
    Mount,
    Place,
    VeiledOf,
    url_of,
    veiled,
)
from shardedstore.stores.members import Members
from shardedstore.stores.veiled import Veil
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.document_steps import rebuilt, shortened, veil
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.sink import Present
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta, consolidated_nodes, dump_json, parse_json

if TYPE_CHECKING:
    from shardedstore.jobs.job import Job

MOST_PARENTS = 4  # folders above the base that are searched for the ledger
TRY_AGAIN = "repair the source and run the job again with the same arguments: it tries the holes again"


class ShardFolder(ResultLayout):
    """A folder with one object for each shard."""

    key: ClassVar[str] = "shards"

    @classmethod
    def of(cls, sink: Any, to: str | None, storage_options: StorageOptions) -> Self:  # noqa: ARG003 (for functions)
        # docstring inherited
        refuse_to(sink, to)
        return cls(sink, normalize(sink.url), sink.options)

    def check(self, plan: Plan) -> None:
        # docstring inherited
        super().check(plan)
        self.check_names(plan)

    def check_names(self, plan: Plan) -> None:
        """Refuse names that are invalid for objects, or that two shards would share."""
        if not self.is_remote:
            check_lengths(plan, lambda run: target_of(self.sink, run))
        check_names(plan, self.sink)
        check_outputs(self.folder, plan, self.sink)

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        # docstring inherited
        return attribute_notices(nodes)

    def preview(self, plan: Plan, chain: Chain) -> ResultPreview:
        # docstring inherited
        nodes, folder = after(chain, plan), self.folder

        def mount(run: Run) -> Mount:
            name = target_of(self.sink, run)
            blocks = run.blocks and blocks_after(run.blocks, nodes.get(run.path))
            location = self.sink.location(object_url(folder, name))
            return Mount(members_at(location, run.members), blocks, members=run.members)

        base, *others = ((run.path, mount(run)) for run in plan.runs)
        formats = {path: node.meta.zarr_format for path, node in plan.nodes.items()}
        kept = all(formats.get(path) == node.meta.zarr_format for path, node in nodes.items())
        mixes: Mixes = "end" if not kept else "arrays" if chain.steps else "blocks"
        return ResultPreview(mixes, to_dict(Config(base[1].location, dict(others)), folder))

    def open(self, wanted: JobManifest, overwrite: bool) -> JobManifest:
        """Prepare the destination for writing, and make it refuse readers of Zarr; return the job there."""
        found = super().open(wanted, overwrite)
        if self.has_objects:
            refuse_readers(self.place)
        return found

    def template(self, run: Run, generation: int) -> str:
        """Return the URL of a run's objects in a generation, with ``{block}`` for a shard's name."""
        return object_url(self.folder, versioned(target_of(self.sink, run), generation))

    def _named(self, template: str, shard: Shard) -> str:
        name = quote_name(shard.block_name) if shard.members and self.is_remote else shard.block_name
        return template.replace("{block}", name)

    def write(self, source: ShardSource, job: Job, generation: int) -> Record:
        # docstring inherited
        run, shard = source.run, source.shard
        url = self._named(self.template(run, generation or job.generation), shard)
        written = self.sink.write(_alone(source.entries(), run, shard), shard, url)
        return Record.of(written, shard.number, veiled=bool(shard.divided), consolidated=tuple(run.rebuilt))

    def present(self, run: Run, records: Mapping[int, Record], job: Job, present: Present) -> Iterator[int]:
        # docstring inherited
        templates = dict[int, str]()
        for shard in run.shards():
            record = records.get(shard.number)
            if record is None or not record.is_done:
                continue
            generation = record.generation or job.generation
            if generation not in templates:
                templates[generation] = self.template(run, generation)
            if self.sink.is_there(self._named(templates[generation], shard), record, present):
                yield shard.number

    def location_of_record(self, run: Run, record: Record, job: Job) -> Location:
        # docstring inherited
        generation = record.generation or job.generation
        location = members_at(self.sink.location(self.template(run, generation)), run.members)
        return veiled_base(location, run, {run.number: record}) if run.mounted is not None else location

    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        """Write the consolidated metadata as a component of its own, and then the config.

        Raises
        ------
        DestinationError
            If another job has taken over the destination.
        """
        config, nodes = self.mounted(job, plan, records)
        config = msgspec.structs.replace(config, consolidated=self._consolidate(job, plan, nodes))
        check_latest(job.ledger)
        self.place.write(FILE_NAME, dump(config, self.folder))
        check_latest(job.ledger)
        self.place.clean()
        return config

    def mounted(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> tuple[Config, dict[str, Node]]:
        """Return the config of all shards, and the metadata of the result."""
        config = Config(
            base=self.mount(job, plan.runs[0], records).location,
            shards={run.path: self.mount(job, run, records) for run in plan.runs[1:]},
        )
        nodes = read_nodes(config)
        planned = after(job.chain, plan)
        mounts = {
            path: as_now(path, mount, nodes.get(path), planned.get(path)) for path, mount in config.shards.items()
        }
        return msgspec.structs.replace(config, shards=mounts), nodes

    def mount(self, job: Job, run: Run, records: Mapping[int, Record]) -> Mount:
        """Return the mount of a run; holes are exceptions, and so are shards of other generations than the most frequent one."""

        def location(generation: int) -> Location:
            return members_at(self.sink.location(self.template(run, generation or job.generation)), run.members)

        found = Counter(records[number].generation for number in run.numbers if not records[number].failed)
        most, count = next(iter(found.most_common(1)), (0, 0))
        if run.mounted is not None and count:
            return Mount(veiled_base(location(most), run, records))
        if count == len(run.numbers):
            return Mount(location(most), run.blocks, members=run.members)
        exceptions: dict[str, Location] = {}
        for shard in run.shards():
            record = records[shard.number]
            generation, hole = record.generation, record.failed
            if hole:
                exceptions[shard.block_name] = Hole(shard.name, hole)
            elif generation != most:
                exceptions[shard.block_name] = location_of(run, shard, location(generation))
        if run.division is None:
            return Mount(exceptions[""])
        return Mount(location(most), run.blocks, exceptions, run.members)

    def _consolidate(self, job: Job, plan: Plan, nodes: dict[str, Node]) -> Location | None:
        """Write a component with the consolidated metadata of groups, unless their shards have it.

        Returns None if nothing was to be written.
        """
        made = {
            path: consolidate(nodes, path, undocumented(plan.nodes, path))
            for path in plan.consolidated
            if path in nodes
        }
        groups = [path for path, (key, data) in made.items() if not _holds(nodes[path], key, data)]
        if not groups:
            return None
        name = versioned(CONSOLIDATED, job.generation)
        for group in groups:
            key, data = made[group]
            self.place.write(f"{name}/{Veil(groups).stored(key)}", data)
        return veiled(Directory(join_url(self.folder, name), self.options), groups)

    @classmethod
    def find_job(cls, config: Config) -> ResultJob | None:
        """Return the job that wrote the config; None if not found.

        Up to `MOST_PARENTS` folders above the base are searched for its ledger.
        """
        base = config.base.origin
        if not isinstance(base, Place) or not (base.is_file or base.is_folder):
            return None
        for folder in islice(folders_above(base.url), MOST_PARENTS):
            place = open_folder(folder, base.options)
            if read_job(place) is not None and _is_config_of(place, config):
                made = _last_ended(place, config)
                return ResultJob(ShardFolder, place, made, known_records(place, made))
        return None

    @classmethod
    def compare_listing(
        cls, config: Config, job: ResultJob | None, seen: Callable[[str], None]
    ) -> Iterator[Difference]:
        # docstring inherited
        shards = [(shard, object_at(run, shard)) for run in shard_runs(config) for shard in run.shards()]
        others = [] if config.consolidated is None else [config.consolidated.held]
        listed = _Sizes(None if job is None else job.folder, [*(location for _, location in shards), *others])
        for shard, location in shards:
            found = listed.of(location)
            seen(f"{shard.name}\0{found}\n")
            record = None if job is None else job.records.get(shard.number)
            difference = _compare(shard, location, found, record)
            if difference is not None:
                yield difference
            elif job is not None and record is None and found is not None:
                yield Difference.of(shard, "record", f"{shard.name}: the ledger has no record of it")
        for location in others:
            yield from _compare_consolidated(location, listed, seen)

    @classmethod
    def stored(cls, entries: Entries, run: Run, shard: Shard) -> Iterator[tuple[str, Entry]]:  # noqa: ARG003 (other layouts use it)
        # docstring inherited
        names = Veil(run.location.paths if isinstance(run.location, VeiledOf) else ())
        return ((names.stored(entry.key), entry) for entry in entries)


def _alone(entries: Entries, run: Run, shard: Shard) -> Entries:
    """Return the entries of a shard in the form of a Zarr of its own."""
    if run.rebuilt:
        entries = rebuilt(entries, shard, run.rebuilt)
    if run.mounted:
        entries = veil(entries, shard, run.mounted)
    return entries if shard.block is None else shortened(entries, shard)


def as_now(path: str, mount: Mount, node: Node | None, planned: Node | None) -> Mount:
    """Return a mount with the chunk keys and the division of its array after the chain.

    Raises
    ------
    CorruptError
        If the chunk grid is not the planned one.
    """
    if mount.blocks is None or node is None or not isinstance(node.meta, ArrayMeta) or node.meta.keys is None:
        return mount
    blocks = mount.blocks if planned is None or planned.blocks is None else planned.blocks
    if blocks.chunk_grid != node.meta.chunk_grid:
        raise CorruptError(
            f"{path!r} has a grid of {node.meta.chunk_grid} chunks after the chain, where {blocks.chunk_grid} was planned: "
            "a step changes it, and the metadata that its method `changed` returns do not show that"
        )
    return msgspec.structs.replace(mount, blocks=msgspec.structs.replace(blocks, keys=node.meta.keys))


def _holds(node: Node, key: str, data: bytes) -> bool:
    """Tell whether a group's shard holds this consolidated metadata."""
    if not isinstance(node.meta, GroupMeta) or not node.meta.consolidated:
        return False
    path, _, name = key.rpartition("/")
    wanted = consolidated_nodes(parse_json(data, path, name), path, name)
    return dump_json(dict(sorted(node.inherited.items()))) == dump_json(dict(sorted(wanted.items())))  # NaN != NaN


def _last_ended(place: Folder, config: Config) -> JobManifest:
    """Return the job that wrote the config of a folder: the last one that has ended.

    A compacted ledger shows that its job has ended. If there is none, the last job that an object's name refers to is
    returned.
    """
    jobs = generations(place)
    names = ((url_of(location) or "").rpartition("/")[2] for _, location in config.locations())
    named = max(map(generation_in, names))
    named = named if named in jobs else 1  # a name chosen by the user may look like the name of a generation
    later = (read_generation(place, number) for number in reversed(jobs) if number > named)
    return next((job for job in later if ledger_of(place, job).is_compacted()), None) or read_generation(place, named)


def _is_config_of(place: Folder, config: Config) -> bool:
    """Tell whether the config in a folder names the same components."""
    try:
        found = from_dict(parse(place.read(FILE_NAME)), place.url)
    except (FileNotFoundError, UsageError):
        return False
    one, other = ([(what, location.show()) for what, location in each.locations()] for each in (found, config))
    return one == other and _members(found) == _members(config)


def _members(config: Config) -> dict[str, Members | None]:
    return {path: mount.members for path, mount in config.shards.items()}


class _Size(NamedTuple):
    files: int
    nbytes: int


class _Sizes:
    """Sizes of components; one listing covers all components in the folder of the result."""

    def __init__(self, folder: Folder | None, components: list[Location]) -> None:
        self.root = None if folder is None else folder.url
        self.found: dict[str, _Size] = {}
        if folder is None:
            return
        folders = {location.files_url for location in components if location.is_folder}
        for name, nbytes in folder.sizes():
            url = object_url(folder.url, name)
            self.found[url] = _Size(1, nbytes)
            if folders:
                for parent in folders_above(url):
                    if parent in folders:
                        before = self.found.get(parent, _Size(0, 0))
                        self.found[parent] = _Size(before.files + 1, before.nbytes + nbytes)
                        break

    def of(self, location: Location) -> _Size | None:
        """Return the numbers of files and bytes; None if missing, and zeros for views and web servers."""
        url = location.files_url
        if url is not None and self.root is not None and is_within(url, self.root):
            return self.found.get(url)
        measured = location.measure()
        return None if measured is None else _Size(*measured)


def _compare(shard: Shard, location: Location, found: _Size | None, record: Record | None) -> Difference | None:
    """Return the difference between a shard's object and its record, by size only; None if equal."""
    if location.hole is not None:
        what = f"{shard.name}: it is an accepted hole: {location.hole.cause}"
        return Difference.of(shard, "hole", what, TRY_AGAIN, cause=location.hole.cause)
    known = record if record is not None and record.digest else None
    expected = None if known is None else {"entries": known.entries, "nbytes": known.nbytes}
    if found is None:
        what = f"{shard.name}: {location.show()} is missing"
        return Difference.of(shard, "missing", what, url=url_of(location), expected=expected)
    is_folder = location.is_folder
    if known is not None and found.nbytes != known.nbytes:
        what = f"{shard.name}: {location.show()} has {found.nbytes:,} bytes, but {known.nbytes:,} were written"
    elif known is not None and is_folder and found.files != known.entries:
        what = f"{shard.name}: {location.show()} has {found.files:,} files, but {known.entries:,} were written"
    else:
        return None
    held = {"entries": found.files, "nbytes": found.nbytes} if is_folder else {"nbytes": found.nbytes}
    return Difference.of(shard, "size", what, url=url_of(location), found=held, expected=expected)


def _compare_consolidated(location: Location, listed: _Sizes, seen: Callable[[str], None]) -> Iterator[Difference]:
    name, found = "consolidated metadata", listed.of(location)
    seen(f"{name}\0{found}\n")
    if found is None:
        what = f"{name}: {location.show()} is missing"
        yield Difference("missing", what, MAKE_AGAIN, shard=name, url=url_of(location))
