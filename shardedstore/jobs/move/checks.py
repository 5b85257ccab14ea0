"""Refuse jobs that can't be moves, before anything is written."""

from __future__ import annotations

import msgspec
from dask.utils import format_bytes

from shardedstore.config.document import from_dict
from shardedstore.errors import ChainError, PartitionError, UsageError
from shardedstore.jobs.job import Job
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.make_plan import without_empty_blocks
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.move.scratch import needs
from shardedstore.jobs.move.state import latest_move
from shardedstore.jobs.shards import Plan
from shardedstore.stores.locations import Config, Mount, Place
from shardedstore.stores.reader import reader_of
from shardedstore.transforms.base.chain import Chain
from shardedstore.zarr.metadata import CONSOLIDATED_V2, drop_consolidated
from shardedstore.zarr.paths import join

INSTEAD = "convert it without move, verify the result, and delete the source yourself"


def check_move(move: Move | None, **others: bool) -> None:
    """Raise UsageError for an object that is not a `Move`, and for named options that a move can't have."""
    if move is None:
        return
    if not isinstance(move, Move):
        raise UsageError(f"move is {move!r}: write Move(scratch='200 GiB', yes_delete_source=True)")
    for name, is_given in others.items():
        if is_given:
            raise UsageError(f"{name} can't be combined with a move, which compares every chunk: leave it out")


def check_chain(chain: Chain, layout: ResultLayout, plan: Plan) -> None:
    """Refuse chains that can't be verified, or whose unfinished result can't be opened together with the source.

    Raises
    ------
    ChainError
    """
    preview = layout.preview(plan, chain)
    if preview.config and all(step.keeps_values for step in chain.steps):
        return
    names = ", ".join(type(part).__name__ for part in chain.parts if part is not None)
    raise ChainError(
        f"the chain {names} can't be moved, as its values can't be compared, or its unfinished result can't be opened: move with ToZip to a folder or "
        f"CopyTo(layout='shards'), after no steps, Recompress, MigrateV3 or MigrateOME; or {INSTEAD}"
    )


def check_source(config: Config) -> Place:
    """Return the folder of a source whose chunks can be deleted shard by shard.

    Raises
    ------
    PartitionError
        If the source is read-only, if it is part of another store, or if chunks may belong to several shards.
    """
    base = config.base.whole
    if base.undeletable is not None or not isinstance(base, Place):
        raise PartitionError(
            f"a move deletes chunks, which is not possible here: {base.undeletable or base.show()}; {INSTEAD}"
        )
    for path, mount in config.shards.items():
        if not _is_divided(mount, base, path):
            raise PartitionError(
                f"shard {path!r} is {mount.location.show()}, which is not a division of {base.show()} by ShardedStore.partition, so that other shards "
                f"or stores may share its chunks: {INSTEAD}"
            )
    if config.consolidated is not None:
        raise PartitionError(f"{base.show()} is the result of a job, and has its own metadata: {INSTEAD}")
    for group in sorted(config.base.shared_groups):
        _check_not_consolidated(base, group)
    return base


def _is_divided(mount: Mount, base: Place, path: str) -> bool:
    is_view = mount.location.divides_source and mount.location.view == (base, path)
    return is_view and not mount.exceptions and mount.members is None


def _check_not_consolidated(source: Place, group: str) -> None:
    """Refuse a part of a source whose group has consolidated metadata, which would name moved arrays afterwards."""
    reader = reader_of(source.open())
    (found,) = reader.fetch([join(group, CONSOLIDATED_V2)])
    (document,) = reader.fetch([join(group, "zarr.json")])
    if found is not None or (document is not None and drop_consolidated(document, group) is not None):
        raise PartitionError(
            f"the group {group or '/'!r} of {source.show()} stays in the source, and its consolidated metadata names the arrays to move, which readers "
            "would then see as fill values: move the whole source, or remove the consolidated metadata first"
        )


def as_begun(config: Config, layout: ResultLayout) -> Config:
    """Return the source without empty blocks, by the listing of the first run.

    A later listing lacks the blocks that were moved meanwhile. All runs make equal segments from the first listing, so each
    run finds the records of the others.
    """
    found = None if layout.destination is None else latest_move(layout.place)
    if found is None:
        return without_empty_blocks(config)
    earlier = from_dict(found[0].config).shards

    def begun(path: str, mount: Mount) -> Mount:
        before = earlier.get(path)
        if mount.blocks is None or before is None or before.blocks is None:
            return mount
        blocks = msgspec.structs.replace(mount.blocks, stored=before.blocks.stored)
        return msgspec.structs.replace(mount, blocks=blocks)

    shards = {path: begun(path, mount) for path, mount in config.shards.items()}
    return msgspec.structs.replace(config, shards=shards)


def check_scratch(move: Move, job: Job, plan: Plan) -> None:
    """Refuse shards that are larger than the scratch space.

    Raises
    ------
    PartitionError
    """
    for run, need in zip(plan.runs, needs(job, plan), strict=True):
        name = "the base" if run.mounted is not None else f"a shard of {run.path!r}"
        if move.most_bytes is not None and need.nbytes > move.most_bytes:
            raise PartitionError(
                f"{name} has {format_bytes(need.nbytes)} decoded, more than scratch={move.scratch!r}: divide it with a smaller size in shards, or "
                "name a larger scratch"
            )
        if move.scratch_files is not None and need.files > move.scratch_files:
            raise PartitionError(
                f"{name} has {need.files:,} files in the result, more than scratch_files={move.scratch_files:,}: use ToZip, or name more"
            )
