"""pandas DataFrames of views, if pandas is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shardedstore.errors import UsageError


def to_frame(rows: Iterable[Mapping[str, Any]], index: str) -> Any:
    """Return rows as a pandas DataFrame with one of their columns as the index.

    Raises
    ------
    UsageError
        If pandas is not installed.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise UsageError(
            "a DataFrame needs pandas, which is not installed: pip install pandas, or call to_dict()"
        ) from None
    return pd.DataFrame(list(rows)).set_index(index)
