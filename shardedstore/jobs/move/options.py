"""`Move`: the options of a job that deletes its source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from shardedstore.errors import UsageError
from shardedstore.text import parse_size


class Move(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Delete the chunks of each shard in the source after its result was verified, for lack of room for both.

    Each shard is converted, published, read back and compared with the source by its decoded data. Then this is recorded, and only
    then its chunks are deleted. Metadata documents are deleted at the end, after the config was written. A killed job leaves a pair of source
    and result that holds every value. ``ShardedStore.load(destination, partial=True)`` opens it, and the same call goes on.

    Parameters
    ----------
    move : bool
        Must be True; it stands for the option ``--move``.
    scratch : str or int, optional
        The most bytes, by their decoded size, of shards that are converted, and whose source is not deleted yet. None sets no limit: then
        each worker thread has the shards of one task.
    scratch_files : int, optional
        The most files of such shards.
    yes_delete_source : bool
        Must be True, as the source is going to be deleted.

    Raises
    ------
    UsageError
        If a value is not valid, or the confirmation is missing.

    See Also
    --------
    ShardedStore.plan : Takes it as `move`.
    ShardedStore.finish_move : Delete what is left of the source of a killed job, at its very end.

    Notes
    -----
    Allowed is a Zarr in one folder or below one prefix of an object store, as `ShardedStore.partition` divides it, and a chain that ends in a
    folder of shards, such as ``ToZip(url)``, after no steps or steps with `keeps_values`: `Recompress`, `MigrateV3` and `MigrateOME`. No other program may write to the source, or read it, while it is moved.

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
        bool, Meta(description="Move: delete the chunks of each shard in SOURCE after its result was verified.")
    ] = True
    scratch: Annotated[
        str | int | None,
        Meta(
            description="The most decoded bytes of shards that are converted, and not deleted in SOURCE yet.",
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
                "a move deletes the source, shard by shard: confirm it with yes_delete_source=True (--move --yes-delete-source)"
            )
        if self.scratch is not None and (type(self.scratch) not in (str, int) or (parse_size(self.scratch) or 0) < 1):
            raise UsageError(f"scratch={self.scratch!r} is no size: write one like '200 GiB'")
        if self.scratch_files is not None and (type(self.scratch_files) is not int or self.scratch_files < 1):
            raise UsageError(f"scratch_files={self.scratch_files!r} is not a number of files: say 1 or more")

    @property
    def most_bytes(self) -> int | None:
        """The limit of bytes; None for no limit."""
        return None if self.scratch is None else parse_size(self.scratch)
