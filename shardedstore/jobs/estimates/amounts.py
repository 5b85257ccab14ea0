"""Numbers of an estimate, each with its basis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Basis = Literal["exact", "sampled", "most", "assumed"]
WORST: tuple[Basis, ...] = ("exact", "sampled", "assumed", "most")


class Amount(NamedTuple):
    """A number and its basis.

    Attributes
    ----------
    value : int
        The number.
    basis : "exact", "sampled", "assumed" or "most"
        ``"exact"`` was counted, ``"sampled"`` follows from a sample, ``"assumed"`` treats a part as unchanged, and
        ``"most"`` is an upper limit from the metadata.
    """

    value: int
    basis: Basis

    def times(self, share: float) -> Amount:
        """Return a share of the amount; a share of an exact number is an estimate."""
        return self if share == 1 else Amount(round(self.value * share), _of_part(self.basis))

    def to_dict(self) -> dict[str, Any]:
        """Return the number and its basis."""
        return self._asdict()


def _of_part(basis: Basis) -> Basis:
    return "sampled" if basis == "exact" else basis


def plain_value(value: Any) -> Any:
    """Return an amount, a tuple or another value as a JSON-compatible value."""
    return value.to_dict() if isinstance(value, Amount) else list(value) if isinstance(value, tuple) else value


def bare_value(value: Any) -> Any:
    """Return the number of an amount, and another value as it is."""
    return value.value if isinstance(value, Amount) else value


def total_amount(amounts: Iterable[Amount | None]) -> Amount | None:
    """Return the sum of amounts; None if one is not known.

    >>> total_amount([Amount(3, "exact"), Amount(4, "sampled")]), total_amount([Amount(3, "exact"), None])
    (Amount(value=7, basis='sampled'), None)
    """
    found = list(amounts)
    known = [amount for amount in found if amount is not None]
    if len(known) < len(found):
        return None
    return Amount(
        sum(amount.value for amount in known), max((one.basis for one in known), key=WORST.index, default="exact")
    )
