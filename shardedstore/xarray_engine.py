"""The xarray engine: ``xr.open_dataset("out/shardedstore.json", engine="shardedstore")``.

xarray finds it by an entry point. It opens the config, and passes all else to xarray's own engine for Zarr.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import zarr
from xarray import Dataset, DataTree
from xarray.backends import BackendEntrypoint, ZarrBackendEntrypoint
from xarray.backends.plugins import detect_parameters
from zarr.core.sync import sync

from shardedstore.display.did_you_mean import did_you_mean
from shardedstore.errors import UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.store import ShardedStore
from shardedstore.zarr.metadata import METADATA_NAMES, ArrayMeta, GroupMeta, parse_node
from shardedstore.zarr.paths import join, parents
from shardedstore.zarr.readonly import PROTOTYPE

NOT_TAKEN = ("mode", "store", "engine")  # parameters of the Zarr engine that are refused
OWN = ("allow", "partial", "root")  # parameters of `ShardedStore.load`


class ShardedStoreBackend(BackendEntrypoint):
    """xarray backend for sharded stores.

    It opens a ``shardedstore.json``, or the folder that holds one, at a path or URL. It also opens a `ShardedStore`. It takes
    the options of xarray's engine for Zarr, such as `group`, `consolidated`, `drop_variables` and the options of decoding,
    and also `allow`, `partial`, `root` and `storage_options` of `ShardedStore.load`. It uses existing consolidated metadata,
    unless ``consolidated=False``.
    """

    description = "Open the config of a sharded store (shardedstore.json) with shardedstore and zarr"
    supports_groups = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        *(name for name in detect_parameters(ZarrBackendEntrypoint.open_dataset) if name not in NOT_TAKEN),
        *OWN,
    )

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Tell whether this is a sharded store, by its name or by the files in a local folder."""
        if isinstance(filename_or_obj, ShardedStore):
            return True
        path = os.fspath(filename_or_obj) if isinstance(filename_or_obj, os.PathLike) else filename_or_obj
        if not isinstance(path, str):
            return False
        if path.endswith(FILE_NAME):
            return True
        return os.path.isfile(os.path.join(os.path.expanduser(path), FILE_NAME))

    def open_dataset(self, filename_or_obj: object, **options: Any) -> Dataset:
        """Open one group as a dataset."""
        with _opened(filename_or_obj, options) as store:
            return ZarrBackendEntrypoint().open_dataset(store, **options)

    def open_datatree(self, filename_or_obj: object, **options: Any) -> DataTree:
        """Open a group and all groups below it as a tree."""
        with _opened(filename_or_obj, options) as store:
            return ZarrBackendEntrypoint().open_datatree(store, **options)

    def open_groups_as_dict(self, filename_or_obj: object, **options: Any) -> dict[str, Dataset]:
        """Open a group and all groups below it as datasets by path."""
        with _opened(filename_or_obj, options) as store:
            return ZarrBackendEntrypoint().open_groups_as_dict(store, **options)


@contextmanager
def _opened(place: object, options: dict[str, Any]) -> Iterator[Any]:
    """Open a store, and remove its own options from `options`; explain errors of the Zarr engine."""
    if refused := [name for name in NOT_TAKEN if name in options]:
        raise UsageError(
            f"engine 'shardedstore' takes no {refused[0]}=: leave it out, as the engine only reads a config"
        )
    own = {name: options.pop(name) for name in ("storage_options", *OWN) if name in options}
    store, name = _load(place, **own)
    group = "/".join(part for part in (options.get("group") or "").split("/") if part)
    try:
        if options.get("consolidated") is None:
            options["consolidated"] = _is_consolidated(store, options.get("zarr_format"))
        yield store
    except (AttributeError, LookupError, OSError, ValueError) as error:
        if reason := _reason(store, group, options):
            raise UsageError(f"{name} can't be opened: {reason}") from error
        raise


def _load(place: object, **options: Any) -> tuple[ShardedStore, str]:
    if isinstance(place, ShardedStore):
        return place, str(place)
    if not isinstance(place, str | os.PathLike):
        raise UsageError(
            f"engine 'shardedstore' opens the path or URL of a {FILE_NAME}, but was given a {type(place).__name__}"
        )
    return ShardedStore.load(place, **options), repr(os.fspath(place))


def _is_consolidated(store: ShardedStore, zarr_format: Any) -> bool:
    """Tell whether the root has consolidated metadata, as the Zarr engine warns if it has to find out."""
    try:
        zarr.open_consolidated(store, zarr_format=zarr_format, mode="r")
    except (OSError, ValueError):
        return False
    return True


def _reason(store: ShardedStore, group: str, options: dict[str, Any]) -> str | None:
    """Return the reason why a store can't be opened with these options; None if the reason is unknown."""
    found = sync(_node(store, group))
    if found is None:
        return f"there is no group {group!r}{sync(_instead(store, group))}" if group else "it holds no Zarr"
    if isinstance(found, ArrayMeta):
        what = repr(group) if group else "its root"
        return f"{what} is an array, but a dataset is a group: open it with zarr.open_array(ShardedStore.load(...))"
    wanted = options.get("zarr_format")
    if wanted not in (None, found.zarr_format):
        return f"its Zarr format is {found.zarr_format}, but zarr_format={wanted} was given: leave it out"
    if options.get("consolidated") and not _is_consolidated(store, wanted):
        return "it has no consolidated metadata, but consolidated=True was given: leave it out"
    return None


async def _node(store: ShardedStore, path: str) -> ArrayMeta | GroupMeta | None:
    values = [await store.get(join(path, name), PROTOTYPE) for name in METADATA_NAMES]
    documents = {name: value.to_bytes() for name, value in zip(METADATA_NAMES, values, strict=True) if value}
    return parse_node(documents, path)


async def _instead(store: ShardedStore, group: str) -> str:
    """Return the end of a message about a missing group: the groups that exist there."""
    for parent in parents(group):
        if isinstance(await _node(store, parent), GroupMeta):
            break
    missing = group[len(parent) :].strip("/").partition("/")[0]
    names = sorted([name async for name in store.list_dir(parent) if not name.startswith((".z", "zarr.json"))])
    return did_you_mean(missing, names, parent)
