"""One kind of damage at one place, and the table of all kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from shardedstore.zarr.grid import Coords

MOST_NAMED = 16  # findings of one kind in one array, folder or task; the others are counted

CODES = {  # each kind with the next step
    "not-json": "restore the document from a copy, or write it again",
    "attributes": "write the attributes again as strict JSON: null or a text instead of NaN",
    "metadata": "correct the document by the Zarr specification of its format",
    "unknown-codec": "install the package of the codec; readers without it can't decode the array",
    "unsafe-codec": "write the array again with another codec: decoding this one runs code of the writer",
    "unknown-type": "install the package of the data type; readers without it can't decode the array",
    "unknown-grid": "read the array with a library that knows its chunk grid; it can't be checked here",
    "fill-value": "write a fill value that the data type has",
    "huge-chunk": "check the shape and the chunks in the document, or raise the limit (--max-chunk)",
    "dimension-names": "write one name for each dimension, or null",
    "dimension-size": "rename the dimension of one array: xarray refuses such a group",
    "stale-consolidated": "run zarr.consolidate_metadata again",
    "empty-chunk": "remove the empty file, so that its chunk reads as the fill value, or write the chunk again",
    "missing-chunks": "write the missing chunks again, or raise the limit (--max-missing)",
    "chunk-key": "rename the files, or correct the chunk keys in the metadata: readers see fill values",
    "stray-key": "remove the file, or restore the metadata of its array",
    "shard-index": "write the object again: its index is damaged",
    "undecodable-chunk": "write the chunk again",
    "zip-directory": "restore the zip from a copy, or create it again",
    "zip-duplicate": "create the zip again: readers disagree on which of several members counts",
    "zip-compressed": "create the zip again without compression, so that readers can request byte ranges",
    "zip-member": "create the zip again from intact files",
    "listing": "repair the folder, so that all its files can be listed",
    "unread": "check again: with --resume, only the unread parts are read",
}


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Damage of one kind at one place.

    Attributes
    ----------
    code : str
        The kind, such as ``undecodable-chunk``; docs/check.md lists all of them.
    what : str
        The damage as a sentence.
    array : str, optional
        The path of the array or group.
    key : str, optional
        The key of the object or document.
    chunk : tuple of int, optional
        The index of the chunk, in the grid of inner chunks for the sharding codec.
    count : int
        The number of places; `what` names the first ones.
    is_rest : bool
        Whether this stands for all further places that no other finding names.
    """

    code: str
    what: str
    array: str | None = None
    key: str | None = None
    chunk: Coords | None = None
    count: int = 1
    is_rest: bool = False

    @property
    def advice(self) -> str:
        """The next step."""
        return CODES[self.code]


ORDER = {code: number for number, code in enumerate(CODES)}


def in_order(finding: Finding) -> tuple[int, str, bool, str]:
    """Return the key by which findings are sorted: kind, array, key."""
    return ORDER[finding.code], finding.array or "", finding.is_rest, finding.key or ""


def rest(code: str, array: str | None, number: int) -> Finding:
    """Return the finding for all further places of one kind in one array or folder."""
    return Finding(code, f"{number:,} more in {array or '(root)'!r}", array, count=number, is_rest=True)


def few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the first findings of each kind and array, and one for the rest of many.

    >>> found = list(few(Finding("stray-key", f"{n} is stray", "t") for n in range(20)))
    >>> len(found), found[-1].what, found[-1].count
    (17, "4 more in 't'", 4)
    """
    named: Counter[tuple[str, str | None]] = Counter()
    left: Counter[tuple[str, str | None]] = Counter()
    for finding in findings:
        kind = finding.code, finding.array
        if finding.is_rest or named[kind] >= MOST_NAMED:
            left[kind] += finding.count
        else:
            named[kind] += 1
            yield finding
    yield from (rest(*kind, number) for kind, number in left.items())
