"""The xarray engine: ``xr.open_dataset("out/shardedstore.json", engine="shardedstore")``.

xarray finds it by an entry point. It opens the config or the zip, and passes all else to xarray's own engine for Zarr. Then
Dask's chunks get the size of the blocks, and the arrays get zarr's fused codec pipeline.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import zarr
from xarray import Dataset, DataTree, Variable
from xarray.backends import BackendEntrypoint, ZarrBackendEntrypoint
from xarray.backends.plugins import detect_parameters
from xarray.namedarray.parallelcompat import guess_chunkmanager
from zarr.abc.store import Store
from zarr.core import codec_pipeline
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.display.did_you_mean import did_you_mean
from shardedstore.errors import UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.partition.partition import only_zarr
from shardedstore.storage.options import StorageOptions
from shardedstore.storage.urls import is_remote, is_zip_name
from shardedstore.store import ShardedStore
from shardedstore.stores.mount import Mount
from shardedstore.stores.recognise import locate
from shardedstore.zarr.grid import preferred_chunks
from shardedstore.zarr.metadata import METADATA_NAMES, ArrayMeta, GroupMeta, parse_node
from shardedstore.zarr.paths import join, parents
from shardedstore.zarr.readonly import PROTOTYPE

NOT_TAKEN = ("mode", "store", "engine")  # parameters of the Zarr engine that are refused
OWN = ("allow", "partial", "root")  # parameters of `ShardedStore.load`
GUESSED = (".zarr.zip", ".ozx", FILE_NAME)  # other engines may open a plain .zip


class ShardedStoreBackend(BackendEntrypoint):
    """xarray backend for sharded stores.

    It opens a ``shardedstore.json``, the folder that holds one, or a zip with one Zarr (``.zip``, ``.ozx``), at a path or URL.
    It also opens a `ShardedStore`. It takes the options of xarray's engine for Zarr, such as `group`, `consolidated`,
    `drop_variables` and the options of decoding, and also `storage_options`; for configs also `allow`, `partial` and `root` of
    `ShardedStore.load`. It uses existing consolidated metadata, unless ``consolidated=False``.

    With ``chunks={}``, each chunk of Dask is one block of a divided array. A block that is larger than Dask's
    ``array.chunk-size`` is cut into equal parts of whole chunks. ``chunks="auto"`` joins whole blocks or parts.
    """

    description = "Open a sharded store (shardedstore.json) or a Zarr in a zip with shardedstore and zarr"
    supports_groups = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        *(name for name in detect_parameters(ZarrBackendEntrypoint.open_dataset) if name not in NOT_TAKEN),
        *OWN,
    )

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Tell whether this is a sharded store or a zip of a Zarr, by its name or by the files in a local folder."""
        if isinstance(filename_or_obj, ShardedStore):
            return True
        path = os.fspath(filename_or_obj) if isinstance(filename_or_obj, os.PathLike) else filename_or_obj
        if not isinstance(path, str):
            return False
        if _place(path).endswith(GUESSED):
            return True
        return os.path.isfile(os.path.join(os.path.expanduser(path), FILE_NAME))

    def open_dataset(self, filename_or_obj: object, **options: Any) -> Dataset:
        """Open one group as a dataset."""
        with _opened(filename_or_obj, options) as store:
            dataset = ZarrBackendEntrypoint().open_dataset(store, **options)
            _prepare(store, _path_of(options), dataset.variables)
            return dataset

    def open_datatree(self, filename_or_obj: object, **options: Any) -> DataTree:
        """Open a group and all groups below it as a tree."""
        with _opened(filename_or_obj, options) as store:
            tree = ZarrBackendEntrypoint().open_datatree(store, **options)
            for node in tree.subtree:
                _prepare(store, join(_path_of(options), node.path.strip("/")), node.to_dataset(inherit=False).variables)
            return tree

    def open_groups_as_dict(self, filename_or_obj: object, **options: Any) -> dict[str, Dataset]:
        """Open a group and all groups below it as datasets by path."""
        with _opened(filename_or_obj, options) as store:
            groups = ZarrBackendEntrypoint().open_groups_as_dict(store, **options)
            for path, dataset in groups.items():
                _prepare(store, join(_path_of(options), path.strip("/")), dataset.variables)
            return groups


def _prepare(store: Store, group: str, variables: Mapping[Any, Variable]) -> None:
    """Give the variables of a group chunks of Dask that fit the blocks, and the fused pipeline."""
    for name, variable in variables.items():
        if (array := _array_of(variable)) is None:
            continue
        fuse(array)
        mount = store.config.shards.get(join(group, str(name))) if isinstance(store, ShardedStore) else None
        if mount is not None:
            _fit_chunks(variable, array, mount)


def _array_of(variable: Variable) -> zarr.Array[Any] | None:
    """Return the array that a variable reads; None for a variable in memory."""
    data: Any = variable._data
    while data is not None and not hasattr(data, "get_array"):
        data = getattr(data, "array", None)
    found = None if data is None else data.get_array()
    return found if isinstance(found, zarr.Array) else None


def _fit_chunks(variable: Variable, array: zarr.Array[Any], mount: Mount) -> None:
    names, chunks = tuple(variable.encoding.get("preferred_chunks", ())), array.shards or array.chunks
    if mount.blocks is None or len(names) != array.ndim:
        return
    most = guess_chunkmanager(None).get_auto_chunk_size()
    fitting = preferred_chunks(array.shape, chunks, mount.blocks.chunks, array.dtype.itemsize, most)
    variable.encoding["preferred_chunks"] = dict(zip(names, fitting, strict=True))


def _path_of(options: Mapping[str, Any]) -> str:
    """Return the path of the opened group."""
    return "/".join(part for part in (options.get("group") or "").split("/") if part)


def _place(path: str) -> str:
    """Return a path or URL in lower case without a folder in the zip, and a URL without its query.

    >>> _place("https://example.org/a.zarr.zip?token=1"), _place("a.ozx|zip:b/"), _place("a#b.zarr.zip")
    ('https://example.org/a.zarr.zip', 'a.ozx', 'a#b.zarr.zip')
    """
    zipped = path.partition("|")[0].lower()
    return re.split("[?#]", zipped, maxsplit=1)[0] if is_remote(zipped) else zipped


@contextmanager
def _opened(place: object, options: dict[str, Any]) -> Iterator[Any]:
    """Open a store, and remove its own options from `options`; explain errors of the Zarr engine."""
    if refused := [name for name in NOT_TAKEN if name in options]:
        raise UsageError(
            f"engine 'shardedstore' takes no {refused[0]}=: leave it out, as the engine only reads a config"
        )
    own = {name: options.pop(name) for name in ("storage_options", *OWN) if name in options}
    store, name = _load(place, **own)
    group = _path_of(options)
    try:
        if options.get("consolidated") is None:
            options["consolidated"] = _is_consolidated(store, options.get("zarr_format"))
        yield store
    except (AttributeError, LookupError, OSError, ValueError) as error:
        if reason := _reason(store, group, options):
            raise UsageError(f"{name} can't be opened: {reason}") from error
        raise


def _load(place: object, **options: Any) -> tuple[Store, str]:
    if isinstance(place, ShardedStore):
        return place, str(place)
    if not isinstance(place, str | os.PathLike):
        raise UsageError(
            f"engine 'shardedstore' opens the path or URL of a {FILE_NAME} or a zip, but was given a {type(place).__name__}"
        )
    path = os.fspath(place)
    if is_zip_name(_place(path)) and not os.path.isdir(path):
        return _load_zip(path, **options), repr(path)
    return ShardedStore.load(place, **options), repr(path)


def _load_zip(path: str, storage_options: StorageOptions = None, **refused: Any) -> Store:
    """Open the only Zarr of a zip."""
    if refused:
        raise UsageError(
            f"{path!r} is a zip, and {next(iter(refused))}= is an option of configs ({FILE_NAME}): leave it out"
        )
    location = locate(path, storage_options)
    return (only_zarr(location) or location).open()


def _is_consolidated(store: Store, zarr_format: Any) -> bool:
    """Tell whether the root has consolidated metadata, as the Zarr engine warns if it has to find out."""
    try:
        zarr.open_consolidated(store, zarr_format=zarr_format, mode="r")
    except (OSError, ValueError):
        return False
    return True


def _reason(store: Store, group: str, options: dict[str, Any]) -> str | None:
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


async def _node(store: Store, path: str) -> ArrayMeta | GroupMeta | None:
    values = [await store.get(join(path, name), PROTOTYPE) for name in METADATA_NAMES]
    documents = {name: value.to_bytes() for name, value in zip(METADATA_NAMES, values, strict=True) if value}
    return parse_node(documents, path)


async def _instead(store: Store, group: str) -> str:
    """Return the end of a message about a missing group: the groups that exist there."""
    for parent in parents(group):
        if isinstance(await _node(store, parent), GroupMeta):
            break
    missing = group[len(parent) :].strip("/").partition("/")[0]
    names = sorted([name async for name in store.list_dir(parent) if not name.startswith((".z", "zarr.json"))])
    return did_you_mean(missing, names, parent)


def fuse(array: zarr.Array[Any]) -> bool:
    """Give an open array the fused pipeline, and tell whether it has it now.

    An array with a pipeline that the user has configured keeps it, and older versions of zarr keep their own. Pickled arrays
    keep the fused pipeline.

    >>> array = zarr.create_array(zarr.storage.MemoryStore(), shape=(3,), chunks=(1,), dtype="i4")
    >>> fuse(array) == hasattr(codec_pipeline, "FusedCodecPipeline")
    True
    """
    fused: Any = getattr(codec_pipeline, "FusedCodecPipeline", None)
    found: Any = array.async_array
    pipeline = found.codec_pipeline
    if fused is None or type(pipeline) is not codec_pipeline.BatchedCodecPipeline:
        return fused is not None and type(pipeline) is fused
    metadata = found.metadata
    spec = ArraySpec(
        shape=(1,) * array.ndim,  # a transform of chunks depends on no shape
        dtype=metadata.dtype,
        fill_value=metadata.fill_value,
        config=found.config,
        prototype=default_buffer_prototype(),
    )
    made = fused.from_codecs(tuple(pipeline)).evolve_from_array_spec(spec)
    object.__setattr__(found, "codec_pipeline", made)  # the class is frozen
    return True
