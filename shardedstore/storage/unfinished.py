"""What killed processes leave in an object store that nothing shows: parts of uploads, and the rule that removes them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

UNFINISHED = (
    "an earlier run was ended while it wrote to %s: parts of uploads may be stored there that nothing shows and that cost "
    "money. A rule of the bucket removes them: %s"
)


def bucket_rule(url: str) -> str:
    """Return the rule of a bucket that removes unfinished uploads below a URL, as the store's owner writes it.

    >>> bucket_rule("az://container/out")
    'none is needed: Azure drops blocks that were not committed after a week'
    """
    place = urlsplit(url)
    if place.scheme.startswith(("az", "adl", "abfs")):
        return "none is needed: Azure drops blocks that were not committed after a week"
    prefix = place.path.strip("/") + "/"
    if place.scheme == "gs":
        condition = {"age": 7, "matchesPrefix": [prefix]}
        rules: dict[str, Any] = {
            "rule": [{"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": condition}]
        }
        return json.dumps({"lifecycle": rules})
    abort = {"DaysAfterInitiation": 7}
    rule = {"ID": "unfinished-uploads", "Status": "Enabled", "Filter": {"Prefix": prefix}}
    return json.dumps({"Rules": [{**rule, "AbortIncompleteMultipartUpload": abort}]})
