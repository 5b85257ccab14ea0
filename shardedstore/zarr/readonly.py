"""Base class of the read-only zarr stores of this package."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

PROTOTYPE = (
    default_buffer_prototype()
)  # for callers that pass none, such as xarray when it reads the dimensions of NCZarr


class ReadOnlyStore(Store):
    """A zarr store that cannot be written to.

    A subclass defines `get`, `exists`, `list` and `__eq__`, and overrides other methods if it has faster ones.

    See Also
    --------
    shardedstore.abc.StoreKind : Makes a kind of store known to configs.

    Examples
    --------
    >>> import zarr
    >>> from shardedstore.abc import ReadOnlyStore, cut
    >>> class Values(ReadOnlyStore):
    ...     def __init__(self, values):
    ...         super().__init__()
    ...         self.values = values
    ...
    ...     async def get(self, key, prototype=PROTOTYPE, byte_range=None):
    ...         data = self.values.get(key)
    ...         return None if data is None else cut(prototype.buffer.from_bytes(data), byte_range)
    ...
    ...     async def exists(self, key):
    ...         return key in self.values
    ...
    ...     async def list(self):
    ...         for key in self.values:
    ...             yield key
    ...
    ...     def __eq__(self, other):
    ...         return isinstance(other, Values) and self.values == other.values
    >>> store = Values({"zarr.json": b'{"zarr_format": 3, "node_type": "group", "attributes": {"title": "demo"}}'})
    >>> dict(zarr.open_group(store, mode="r").attrs)
    {'title': 'demo'}
    """

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True

    def __init__(self) -> None:
        super().__init__(read_only=True)

    def with_read_only(self, read_only: bool = False) -> Self:
        # docstring inherited
        if not read_only:
            raise ValueError(f"{type(self).__name__} can't be written to: map it with map_shards to change it")
        return self

    async def set(self, key: str, value: Buffer) -> None:
        # docstring inherited
        self._check_writable()

    async def delete(self, key: str) -> None:
        # docstring inherited
        self._check_writable()

    @property
    def _supports_sync_io(self) -> bool:
        """Whether `get_sync` is faster than `get`, which zarr's `FusedCodecPipeline` asks."""
        return False

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a value as `get` does, but without `await`.

        Parameters
        ----------
        key : str
            The key.
        prototype : BufferPrototype, optional
            The kind of buffer; by default, zarr's.
        byte_range : ByteRequest, optional
            The part of the value; by default, all of it.

        Returns
        -------
        Buffer or None
            The value; None for a missing key.
        """
        return sync(self.get(key, prototype or PROTOTYPE, byte_range))

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a value as `set` does, but without `await`.

        Parameters
        ----------
        key : str
            The key.
        value : Buffer
            The value.

        Raises
        ------
        ValueError
            If the store can't be written to.
        """
        sync(self.set(key, value))

    def delete_sync(self, key: str) -> None:
        """Delete a key as `delete` does, but without `await`.

        Parameters
        ----------
        key : str
            The key.

        Raises
        ------
        ValueError
            If the store can't be written to.
        """
        sync(self.delete(key))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        # docstring inherited
        return list(await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges)))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        start = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        seen: set[str] = set()
        async for key in self.list_prefix(start):
            name = key[len(start) :].partition("/")[0]
            if name not in seen:
                seen.add(name)
                yield name


class DerivedStore(ReadOnlyStore):
    """A store that is made from another store.

    Parameters
    ----------
    store : Store
        The other store.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store


def read_sync(
    store: Store, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
) -> Buffer | None:
    """Return a value of any store without the event loop, if the store can do so."""
    get: Callable[..., Buffer | None] | None = getattr(store, "get_sync", None)
    if get is None:
        return sync(store.get(key, prototype or PROTOTYPE, byte_range))
    return get(key, prototype=prototype, byte_range=byte_range)


def cut(data: Buffer, byte_range: ByteRequest | None) -> Buffer:
    """Return the part of a value that a byte range selects.

    Parameters
    ----------
    data : Buffer
        The whole value.
    byte_range : ByteRequest or None
        The range in bytes; None selects the whole value. An end after the value's end means its end.

    Returns
    -------
    Buffer
        The selected bytes.

    Raises
    ------
    ValueError
        If the range has an unknown type.

    Examples
    --------
    >>> data = PROTOTYPE.buffer.from_bytes(b"0123456789")
    >>> cut(data, RangeByteRequest(2, 5)).to_bytes(), cut(data, SuffixByteRequest(3)).to_bytes()
    (b'234', b'789')
    """
    start, stop = bounds(byte_range, len(data))
    return data[start:stop]


def bounds(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    """Return the start and end of a byte range in a value of `size` bytes.

    >>> bounds(RangeByteRequest(2, 50), 10), bounds(OffsetByteRequest(2), 10), bounds(SuffixByteRequest(2), 10)
    ((2, 10), (2, 10), (8, 10))
    """
    match byte_range:
        case None:
            return 0, size
        case RangeByteRequest(start, end):
            return start, min(end, size)
        case OffsetByteRequest(start):
            return start, size
        case SuffixByteRequest(length):
            return max(0, size - length), size
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")
