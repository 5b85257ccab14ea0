"""`CodecComparison`: the sizes and speeds of several codecs on chunks of a user's arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from shardedstore.display import codec_comparison as view
from shardedstore.display.tables import to_frame

if TYPE_CHECKING:
    from rich.console import RenderableType

NOW = "(now)"
ALL = ""  # the path of the rows of all arrays together


class CodecRow(msgspec.Struct, frozen=True, kw_only=True):
    """The measurement of one codec on the sampled chunks of one array, or of all arrays together.

    Attributes
    ----------
    array : str
        The path of the array; empty for all arrays together.
    codec : str
        The name that the user gave; ``"(now)"`` for the current codecs.
    codecs : str
        The filters and compressors.
    chunks : int
        The number of sampled chunks.
    nbytes : int
        Their decoded size, in bytes.
    stored : int
        Their encoded size, in bytes.
    whole : int
        The encoded size of the whole array, or of all arrays, scaled from the sample.
    encode_seconds, decode_seconds : float
        The time of one thread.
    error : str
        The reason why the codec does not fit the array; the other numbers are then those of the current codecs.

    See Also
    --------
    CodecComparison : Its `rows` are such measurements.

    Examples
    --------
    >>> row = CodecRow(
    ...     array="t",
    ...     codec="zstd",
    ...     codecs="zstd(5)",
    ...     chunks=2,
    ...     nbytes=4000,
    ...     stored=1000,
    ...     whole=500_000,
    ...     encode_seconds=0.004,
    ...     decode_seconds=0.001,
    ... )
    >>> row.ratio, row.encode_rate, row.decode_rate
    (4.0, 1000000.0, 4000000.0)
    """

    array: str
    codec: str
    codecs: str
    chunks: int
    nbytes: int
    stored: int
    whole: int
    encode_seconds: float
    decode_seconds: float
    error: str = ""

    @property
    def ratio(self) -> float:
        """The decoded size divided by the encoded size."""
        return self.nbytes / self.stored if self.stored else 1.0

    @property
    def encode_rate(self) -> float:
        """The decoded bytes that one thread encodes in a second."""
        return self.nbytes / max(self.encode_seconds, 1e-9)

    @property
    def decode_rate(self) -> float:
        """The decoded bytes that one thread decodes in a second."""
        return self.nbytes / max(self.decode_seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and the rates.

        Returns
        -------
        dict
            Numbers and texts by name.
        """
        rates = {name: getattr(self, name) for name in ("ratio", "encode_rate", "decode_rate")}
        return {**msgspec.structs.asdict(self), **rates}


@dataclass(frozen=True, repr=False, eq=False)
class CodecComparison:
    """The sizes and speeds of codecs on a user's chunks, as returned by `ShardedStore.compare_codecs`.

    Attributes
    ----------
    rows : tuple of CodecRow
        The measurements: for all arrays together, and then for each array; the current codecs come first.
    notes : tuple of str
        The arrays that could not be measured, with the reason.

    See Also
    --------
    ShardedStore.compare_codecs : Compare codecs.

    Examples
    --------
    >>> import numpy as np
    >>> import zarr
    >>> from shardedstore import ShardedStore
    >>> source = zarr.storage.MemoryStore()
    >>> _ = zarr.create_array(source, name="t", data=np.arange(4000), chunks=(1000,), compressors=None)
    >>> found = ShardedStore.partition(source).compare_codecs({"zstd": "zstd", "gzip": {"id": "gzip", "level": 9}})
    >>> [row.codec for row in found.total], found.total[0].ratio
    (['(now)', 'zstd', 'gzip'], 1.0)
    >>> found.smallest
    'zstd'
    """

    rows: tuple[CodecRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> tuple[CodecRow, ...]:
        """The rows of all arrays together."""
        return tuple(row for row in self.rows if row.array == ALL)

    @property
    def smallest(self) -> str:
        """The name of the codec that makes the smallest result."""
        return min(self.total, key=lambda row: row.whole).codec

    def of_array(self, path: str) -> tuple[CodecRow, ...]:
        """Return the rows of one array.

        Parameters
        ----------
        path : str
            The path of the array.

        Returns
        -------
        tuple of CodecRow
            The current codecs, and then the others in their order.
        """
        return tuple(row for row in self.rows if row.array == path)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-compatible values.

        Returns
        -------
        dict
            The rows with their rates, and the notes.
        """
        return {"rows": [row.to_dict() for row in self.rows], "notes": list(self.notes)}

    def to_dataframe(self) -> Any:
        """Return the rows as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row for each codec and array; all arrays together have the array ``""``.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        return to_frame((row.to_dict() for row in self.rows), "codec")

    def plot(self, array: str = ALL, axes: Any = None) -> Any:
        """Draw the size against the speeds with matplotlib.

        Parameters
        ----------
        array : str
            The path of an array; by default, all arrays together.
        axes : matplotlib.axes.Axes, optional
            The axes to draw on; by default, new ones.

        Returns
        -------
        matplotlib.axes.Axes
            The axes: a line for each codec, from the rate of writing to that of reading.

        Raises
        ------
        UsageError
            If matplotlib is not installed, or if there is no such array.
        """
        return view.plot_codecs(self, array, axes)

    def __str__(self) -> str:
        return view.codecs_to_text(self)

    __repr__ = __str__

    def __rich__(self) -> RenderableType:
        return view.codecs_to_rich(self)

    def _repr_html_(self) -> str:
        return view.codecs_to_html(self)


def total_rows(rows: Iterable[CodecRow]) -> list[CodecRow]:
    """Return the sum of the rows of each codec over all arrays."""
    found: dict[str, list[CodecRow]] = {}
    for row in rows:
        found.setdefault(row.codec, []).append(row)
    return [_sum(codec, some) for codec, some in found.items()]


def _sum(codec: str, rows: list[CodecRow]) -> CodecRow:
    kinds = list(dict.fromkeys(row.codecs for row in rows if not row.error))
    return CodecRow(
        array=ALL,
        codec=codec,
        codecs=kinds[0] if len(kinds) == 1 else f"{len(kinds)} kinds",
        chunks=sum(row.chunks for row in rows),
        nbytes=sum(row.nbytes for row in rows),
        stored=sum(row.stored for row in rows),
        whole=sum(row.whole for row in rows),
        encode_seconds=sum(row.encode_seconds for row in rows),
        decode_seconds=sum(row.decode_seconds for row in rows),
        error="; ".join(f"{row.array!r} keeps its codecs: {row.error}" for row in rows if row.error),
    )
