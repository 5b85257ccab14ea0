"""A folder of shards: an object for each shard, and a config beside them that opens all as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from shardedstore.config.document import dump, to_dict
from shardedstore.errors import CorruptError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import CONSOLIDATED, check_lengths, check_names, check_outputs
from shardedstore.jobs.layouts.base import ResultLayout, ShardSource, refuse_to
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.object_sizes import attribute_notices
from shardedstore.jobs.result_preview import Mixes, Planned, after, blocks_after, held, veiled_base
from shardedstore.jobs.shards import Plan, Run, target_of
from shardedstore.jobs.versions import check_latest, versioned
from shardedstore.notices import Notice
from shardedstore.storage.options import StorageOptions
from shardedstore.storage.urls import join_url, normalize, object_url, quote_name
from shardedstore.stores.hierarchy import Node, consolidate, read_nodes, undocumented
from shardedstore.stores.locations import Config, Directory, Hole, Location, Mount, at_shard, veiled
from shardedstore.stores.veiled import Veil
from shardedstore.transforms.base.chain import Chain, Entries, Present, Shard
from shardedstore.transforms.base.document_steps import rebuilt, shortened, veil
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta, consolidated_nodes, dump_json, parse_json

if TYPE_CHECKING:
    from shardedstore.jobs.worker import Job


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
        """Refuse names that objects can't have, or that two shards would share."""
        if not self.is_remote:
            check_lengths(plan, lambda run: target_of(self.sink, run))
        check_names(plan, self.sink)
        check_outputs(self.folder, plan, self.sink)

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        # docstring inherited
        return attribute_notices(nodes)

    def planned(self, plan: Plan, chain: Chain) -> Planned:
        # docstring inherited
        nodes, folder = after(chain, plan.nodes), self.folder

        def mount(run: Run) -> Mount:
            name = target_of(self.sink, run)
            blocks = run.blocks and blocks_after(run.blocks, nodes.get(run.path))
            location = self.sink.location(object_url(folder, name))
            return Mount(held(location, run.members), blocks, members=run.members)

        base, *others = ((run.path, mount(run)) for run in plan.runs)
        formats = {path: node.meta.zarr_format for path, node in plan.nodes.items()}
        kept = all(formats.get(path) == node.meta.zarr_format for path, node in nodes.items())
        mixes: Mixes = "end" if not kept else "arrays" if chain.steps else "blocks"
        return Planned(mixes, to_dict(Config(base[1].location, dict(others)), folder))

    def template(self, run: Run, generation: int) -> str:
        """Return the URL of a run's objects of a generation; ``{block}`` stands for the name of each of several."""
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
        for number, shard in run.shards():
            record = records.get(number)
            if record is None or not record.is_done:
                continue
            generation = record.generation or job.generation
            if generation not in templates:
                templates[generation] = self.template(run, generation)
            if self.sink.is_there(self._named(templates[generation], shard), record, present):
                yield number

    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        """Write the consolidated metadata as a component of its own, and then the config."""
        config, nodes = self.mounted(job, plan, records)
        config = msgspec.structs.replace(config, consolidated=self._consolidate(job, plan, nodes))
        check_latest(job.ledger)
        self.place.write(FILE_NAME, dump(config, self.folder))
        check_latest(job.ledger)
        self.place.clean()
        return config

    def mounted(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> tuple[Config, dict[str, Node]]:
        """Return the config of all shards, and its metadata."""
        config = Config(
            base=self.mount(job, plan.runs[0], records).location,
            shards={run.path: self.mount(job, run, records) for run in plan.runs[1:]},
        )
        nodes = read_nodes(config)
        planned = after(job.chain, plan.nodes)
        mounts = {
            path: as_now(path, mount, nodes.get(path), planned.get(path)) for path, mount in config.shards.items()
        }
        return msgspec.structs.replace(config, shards=mounts), nodes

    def mount(self, job: Job, run: Run, records: Mapping[int, Record]) -> Mount:
        """Return where a run is: as the most of its shards, and those of other generations by name."""

        def location(generation: int) -> Location:
            return held(self.sink.location(self.template(run, generation or job.generation)), run.members)

        found = Counter(records[number].generation for number in run.numbers if not records[number].failed)
        most, count = next(iter(found.most_common(1)), (0, 0))
        if run.mounted is not None and count:
            return Mount(veiled_base(location(most), run, records))
        if count == len(run.numbers):
            return Mount(location(most), run.blocks, members=run.members)
        exceptions: dict[str, Location] = {}
        for number, shard in run.shards():
            generation, hole = records[number].generation, records[number].failed
            if hole:
                exceptions[shard.block_name] = Hole(shard.name, hole)
            elif generation != most:
                exceptions[shard.block_name] = at_shard(location(generation), run.division, shard.block_name)
        if run.division is None:
            return Mount(exceptions[""])
        return Mount(location(most), run.blocks, exceptions, run.members)

    def _consolidate(self, job: Job, plan: Plan, nodes: dict[str, Node]) -> Location | None:
        """Write the consolidated metadata that groups get and their shards do not hold, as a component of its own."""
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


def _alone(entries: Entries, run: Run, shard: Shard) -> Entries:
    """Return the entries of a shard as a Zarr of its own has them."""
    if run.rebuilt:
        entries = rebuilt(entries, shard, run.rebuilt)
    if run.mounted:
        entries = veil(entries, shard, run.mounted)
    return entries if shard.block is None else shortened(entries, shard)


def as_now(path: str, mount: Mount, node: Node | None, planned: Node | None) -> Mount:
    """Return a mount with the chunk keys and the division that its array has now, after the chain."""
    if mount.blocks is None or node is None or not isinstance(node.meta, ArrayMeta) or node.meta.keys is None:
        return mount
    blocks = mount.blocks if planned is None or planned.blocks is None else planned.blocks
    if blocks.chunk_grid != node.meta.chunk_grid:
        raise CorruptError(
            f"{path!r} has a grid of {node.meta.chunk_grid} chunks after the chain, where {blocks.chunk_grid} was planned: "
            "a step changes it and does not say so in what its `changed` returns"
        )
    return msgspec.structs.replace(mount, blocks=msgspec.structs.replace(blocks, keys=node.meta.keys))


def _holds(node: Node, key: str, data: bytes) -> bool:
    """Tell whether a group's shard holds this consolidated metadata of it."""
    if not isinstance(node.meta, GroupMeta) or not node.meta.consolidated:
        return False
    path, _, name = key.rpartition("/")
    wanted = consolidated_nodes(parse_json(data, path, name), path, name)
    return dump_json(dict(sorted(node.inherited.items()))) == dump_json(dict(sorted(wanted.items())))  # NaN is not NaN
