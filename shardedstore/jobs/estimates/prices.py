"""The cost of a job by a price table that the user gives."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from shardedstore.errors import UsageError

GB = 10**9
SAME = {"HEAD": "GET", "POST": "PUT", "LIST": "PUT"}  # kinds of requests that default to the price of another kind


class SidePrices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The prices of an object store.

    Attributes
    ----------
    per_1000 : dict of str to float
        The price of 1,000 requests, by kind: ``GET``, ``HEAD``, ``LIST``, ``PUT``, ``POST`` or ``DELETE``. Without a price,
        ``HEAD`` costs as much as ``GET``, ``POST`` and ``LIST`` as much as ``PUT``, and other kinds nothing.
    read_per_gb, write_per_gb : float
        The price of the transfer of 10^9 bytes.
    month_per_gb : float
        The price of 10^9 stored bytes for a month.
    """

    per_1000: dict[str, float] = {}
    read_per_gb: float = 0.0
    write_per_gb: float = 0.0
    month_per_gb: float = 0.0

    def of_requests(self, counts: Mapping[str, int]) -> float:
        """Return the price of requests by kind."""
        return sum(count / 1000 * self._per_1000(kind) for kind, count in counts.items())

    def _per_1000(self, kind: str) -> float:
        return self.per_1000.get(kind, self.per_1000.get(SAME.get(kind, ""), 0.0))


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price table: the prices of the source, of the destination and of the workers.

    Attributes
    ----------
    currency : str
        The name of the currency, which is shown before amounts.
    source, destination : SidePrices
        The prices of the object stores.
    hour_per_thread : float
        The price of an hour of a worker's thread.

    See Also
    --------
    JobPlan.estimate : Uses it.

    Examples
    --------
    >>> read_prices({"currency": "EUR", "destination": {"per_1000": {"PUT": 0.005}}}).destination.of_requests(
    ...     {"PUT": 4000}
    ... )
    0.02
    """

    currency: str = "USD"
    source: SidePrices = SidePrices()
    destination: SidePrices = SidePrices()
    hour_per_thread: float = 0.0


class Cost(msgspec.Struct, frozen=True):
    """The cost of a job.

    Attributes
    ----------
    currency : str
        The name of the currency.
    requests : float
        The cost of the requests.
    transfer : float or None
        The cost of reading and writing bytes; None if the number of bytes is not known.
    workers : float or None
        The cost of the workers; None if the time is not known.
    month : float or None
        The cost of storing the result for a month; None if its size is not known.
    """

    currency: str
    requests: float
    transfer: float | None
    workers: float | None
    month: float | None

    @property
    def once(self) -> float:
        """The known cost of the run, without storage."""
        return self.requests + (self.transfer or 0.0) + (self.workers or 0.0)


def read_prices(prices: Prices | Mapping[str, Any] | str | os.PathLike[str]) -> Prices:
    """Return a price table from a mapping or a TOML file.

    Raises
    ------
    UsageError
        If the file can't be read, or a field is not known.
    """
    if isinstance(prices, Prices):
        return prices
    name, given = "prices", prices
    if not isinstance(given, Mapping):
        name, given = repr(os.fspath(given)), _read_toml(given)
    try:
        return msgspec.convert(given, Prices, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{name} is not a price table: {error}; its fields are currency, source, destination and hour_per_thread, and those "
            f"of a side are {', '.join(SidePrices.__struct_fields__)}"
        ) from None


def _read_toml(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"the price table {os.fspath(path)!r} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the price table {os.fspath(path)!r} is not TOML: {error}") from None


def cost_of(
    prices: Prices,
    source: Mapping[str, int],
    destination: Mapping[str, int],
    read: int | None,
    written: int | None,
    stored: int | None,
    thread_seconds: float | None,
) -> Cost:
    """Return the cost of requests by kind, of bytes read, written and stored, and of seconds of threads."""
    transfer = None
    if read is not None and written is not None:
        transfer = (read * prices.source.read_per_gb + written * prices.destination.write_per_gb) / GB
    return Cost(
        prices.currency,
        prices.source.of_requests(source) + prices.destination.of_requests(destination),
        transfer,
        None if thread_seconds is None else thread_seconds / 3600 * prices.hour_per_thread,
        None if stored is None else stored / GB * prices.destination.month_per_gb,
    )
