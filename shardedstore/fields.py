"""Types of a config's strings and numbers, with their constraints in the JSON Schema.

Patterns mean the same in Python, JavaScript and JSON Schema. They do not use ``$``, which in Python also matches before
a newline.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

FORMAT = "shardedstore"  # the value of "format" in a config
FILE_NAME = "shardedstore.json"  # the config of a result, in its folder
MOVING = ".shardedstore-move.json"  # at the root of a source whose chunks are deleted by a job; no part of the Zarr

END = r"(?![\s\S])"
_SEGMENT = rf"(?!\.{{1,2}}(?:/|{END}))[^/\u0000]+"
PATH = rf"^{_SEGMENT}(?:/{_SEGMENT})*{END}"  # path of a group or an array below the root
INDEX = rf"^(?:0|[1-9][0-9]*)(?:/(?:0|[1-9][0-9]*))*{END}"  # index of a block

HostPart = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9._-]+{END}")]  # part of a host name
KindName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]*{END}")]
PathText = Annotated[str, Meta(extra_json_schema={"pattern": f"{PATH}|^{END}"})]
BelowRoot = Annotated[str, Meta(extra_json_schema={"pattern": PATH})]
Url = Annotated[str, Meta(extra_json_schema={"pattern": rf"^[^\u0000]*{END}"})]
Setting = str | int | float | bool | None
MOST = 2**63 - 1
Size = Annotated[int, Meta(ge=1, le=MOST)]
Sizes = Annotated[tuple[Size, ...], Meta(extra_json_schema={"minItems": 1})]
Names = Annotated[tuple[BelowRoot, ...], Meta(extra_json_schema={"minItems": 1})]
Index = Annotated[int, Meta(ge=0, le=MOST)]
Ranges = Annotated[tuple[tuple[Index, Size], ...], Meta(extra_json_schema={"minItems": 1})]
_SECRET = re.compile(r"(?i)secret|passw|token|credential|signature|api_?key")


def may_be_secret(name: str) -> bool:
    """Tell whether a setting of this name may be secret."""
    return _SECRET.search(name) is not None
