"""Unfinished uploads that killed processes leave in object stores, and bucket rules that remove them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

UNFINISHED = (
    "an earlier run was ended while it wrote to %s: parts of its uploads may be left there. No listing shows them, and they "
    "cost money. A rule of the bucket removes them: %s"
)


def bucket_rule(url: str) -> str:
    """Return the bucket rule, as JSON, that removes unfinished uploads below a URL.

    >>> bucket_rule("az://container/out")
    'none is needed: Azure deletes uncommitted blocks after a week'
    """
    place = urlsplit(url)
    if place.scheme.startswith(("az", "adl", "abfs")):
        return "none is needed: Azure deletes uncommitted blocks after a week"
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
