"""Documents that make readers of Zarr refuse a folder that is not a Zarr.

The folder of a job's result holds zips or Zarrs, and no Zarr at its root. zarr creates an empty group in such a folder, as
its default mode is ``"a"``. With a metadata document of an unknown format, zarr raises an error that shows the format
instead, and writes nothing. So the format is a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_START = "this folder is a result of shardedstore and not a Zarr"
SENTENCE = (
    f"{_START}: open it with shardedstore.ShardedStore.load(folder), or with "
    "xarray.open_dataset(folder, engine='shardedstore')"
)
_SIGN = _START.encode()
_EMPTY = {"kind": "inline", "must_understand": False, "metadata": {}}  # for readers that require consolidated metadata
REFUSALS: Mapping[str, bytes] = {
    ".zgroup": json.dumps({"zarr_format": SENTENCE}, indent=2).encode(),  # for zarr 2, and for zarr_format=2
    "zarr.json": json.dumps(
        {"zarr_format": SENTENCE, "node_type": "group", "consolidated_metadata": _EMPTY}, indent=2
    ).encode(),
}


def is_refusal(data: bytes) -> bool:
    """Tell whether a metadata document is one that refuses readers.

    >>> is_refusal(REFUSALS["zarr.json"]), is_refusal(b'{"zarr_format": 3, "node_type": "group"}')
    (True, False)
    """
    if _SIGN not in bytes(data):
        return False
    try:
        document = json.loads(bytes(data))
    except ValueError:
        return False
    return isinstance(document, dict) and str(document.get("zarr_format")).startswith(_START)
