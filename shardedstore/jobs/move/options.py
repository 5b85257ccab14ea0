"""`Move`: the options of a job that deletes its source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from shardedstore.errors import UsageError
from shardedstore.text import parse_size


class Move(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a move, which deletes the chunks of each shard in the source after the shard's result was verified.

    Each shard is converted, published, read back and compared with the source by its decoded data. The success is
    recorded, and then the chunks of the shard are deleted. Metadata documents are deleted at the end, after the config
    was written. After a killed job, source and result together hold every value. ``ShardedStore.load(destination,
    partial=True)`` opens them as one store, and the same call resumes the job.

    Parameters
    ----------
    move : bool
        Must be True; this is the option ``--move``.
    scratch : str or int, optional
        The most decoded bytes of shards that are converted and whose source is not deleted yet. None sets no limit;
        each worker thread then holds the shards of one task.
    scratch_files : int, optional
        The most files of such shards.
    yes_delete_source : bool
        Must be True, to confirm that the job deletes the source.

    Raises
    ------
    UsageError
        If a value is not valid, or the confirmation is missing.

    See Also
    --------
    ShardedStore.plan : Takes it as `move`.
    ShardedStore.finish_move : Delete the rest of the source after a job was killed at its very end.

    Notes
    -----
    The source is a Zarr in one folder or below one prefix of an object store, or a part of it without consolidated metadata
    above the part, and `ShardedStore.partition` divides it.
    The chain may have steps with `keeps_values`: `Recompress`, `MigrateV3` and `MigrateOME`. It ends in a folder of
    shards, such as ``ToZip(url)``. No other program may write to the source, or read it, while it is moved.

    Examples
    --------
    >>> import tempfile, pathlib, dask, zarr
    >>> from shardedstore import Move, ShardedStore
    >>> from shardedstore.transforms import ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t2m", shape=(8,), chunks=(2,), dtype="i4")
    ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t2m": (4,)})
    ...     new = store.map_shards(ToZip(f"{folder}/zips"), move=Move(scratch="1 GiB", yes_delete_source=True))
    ...     new.summary.moved, pathlib.Path(folder, "era5.zarr").exists()
    (3, False)
    """

    move: Annotated[
        bool, Meta(description="Move: delete the chunks of each shard in SOURCE after the shard's result was verified.")
    ] = True
    scratch: Annotated[
        str | int | None,
        Meta(
            description="The most decoded bytes of shards that are converted and not deleted in SOURCE yet.",
            extra={"metavar": "SIZE"},
        ),
    ] = None
    scratch_files: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="The most files of such shards.", extra={"metavar": "N"}),
    ] = None
    yes_delete_source: Annotated[bool, Meta(description="Confirm that --move deletes SOURCE.")] = False

    def __post_init__(self) -> None:
        if self.move is not True or self.yes_delete_source is not True:
            raise UsageError(
                "a move deletes the source shard by shard: confirm this with yes_delete_source=True (--move --yes-delete-source)"
            )
        if self.scratch is not None and (type(self.scratch) not in (str, int) or (parse_size(self.scratch) or 0) < 1):
            raise UsageError(f"scratch={self.scratch!r} is not a size: write one like '200 GiB'")
        if self.scratch_files is not None and (type(self.scratch_files) is not int or self.scratch_files < 1):
            raise UsageError(f"scratch_files={self.scratch_files!r} is not a number of files: write 1 or more")

    @property
    def most_bytes(self) -> int | None:
        """The limit of bytes; None for no limit."""
        return None if self.scratch is None else parse_size(self.scratch)
