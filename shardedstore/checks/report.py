"""The report of `check`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from shardedstore.checks.finding import CODES, Finding
from shardedstore.text import count
from shardedstore.zarr.grid import Coords

if TYPE_CHECKING:
    from rich.table import Table


class ArrayCheck(msgspec.Struct, frozen=True):
    """The checked parts of an array.

    Attributes
    ----------
    path : str
        The path.
    shape : tuple of int
        The shape.
    objects : int or None
        The stored objects; None if the store can't be listed and no chunk was read.
    missing : int or None
        The objects that are not stored, so that they read as the fill value; None if unknown.
    nbytes : int or None
        The bytes of the stored objects; None if unknown.
    chunks : int
        The chunks that were decoded.
    findings : int
        The number of findings.
    """

    path: str
    shape: Coords
    objects: int | None
    missing: int | None
    nbytes: int | None
    chunks: int = 0
    findings: int = 0


class CheckReport(msgspec.Struct, frozen=True):
    """The damage that `check` found in a Zarr.

    Attributes
    ----------
    name : str
        The name of the Zarr.
    level : str
        ``quick`` (documents and listing) or ``full`` (also every chunk).
    findings : tuple of Finding
        The damage.
    arrays : tuple of ArrayCheck
        The arrays, sorted by path.
    groups : int
        The number of groups.
    notes : tuple of str
        Other facts, which are no damage.

    See Also
    --------
    check : Check a Zarr.

    Examples
    --------
    >>> import tempfile, zarr
    >>> from shardedstore import check
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = zarr.create_array(f"{folder}/a.zarr", name="t", shape=(4,), chunks=(2,), dtype="f4")
    ...     report = check(f"{folder}/a.zarr", quick=True)
    >>> report.ok, [(array.path, array.missing) for array in report.arrays]
    (True, [('t', 2)])
    """

    name: str
    level: str
    findings: tuple[Finding, ...] = ()
    arrays: tuple[ArrayCheck, ...] = ()
    groups: int = 0
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no damage was found."""
        return not self.findings

    @property
    def is_unread_only(self) -> bool:
        """Whether the only findings are parts that were not read because of temporary errors."""
        return not self.ok and all(finding.code == "unread" for finding in self.findings)

    @property
    def codes(self) -> dict[str, int]:
        """The number of places by kind of damage."""
        found: Counter[str] = Counter()
        for finding in self.findings:
            found[finding.code] += finding.count
        return {code: found[code] for code in CODES if found[code]}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON document.

        Returns
        -------
        dict
            ``ok``, ``codes`` and all attributes.
        """
        made: dict[str, Any] = {"ok": self.ok, "codes": self.codes, **msgspec.to_builtins(self)}
        return made

    def to_html(self) -> str:
        """Return the report as an HTML document, which loads nothing.

        Returns
        -------
        str
            The document.
        """
        from shardedstore.display.check import check_page

        return check_page(self)

    def table(self) -> Table:
        """Return the arrays as a table of rich.

        Returns
        -------
        rich.table.Table
            The table.
        """
        from shardedstore.display.check import check_table

        return check_table(self)

    @property
    def summary(self) -> str:
        """The result in one line."""
        decoded = sum(array.chunks for array in self.arrays)
        of = f"{count(len(self.arrays), 'array')}, {count(self.groups, 'group')}"
        read = f", {count(decoded, 'chunk')} decoded" if self.level == "full" else ", documents and listing"
        found = sum(self.codes.values())
        return f"{'ok' if self.ok else count(found, 'finding')}: {self.name}: {of}{read}"

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [f"  {finding.what} [{finding.code}]" for finding in self.findings]
        lines += [f"next step: {code}: {CODES[code]}" for code in self.codes]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        from shardedstore.display.check import check_lines

        return "\n".join(check_lines(self))

    def _repr_html_(self) -> str:
        from shardedstore.display.check import check_to_html

        return check_to_html(self)
