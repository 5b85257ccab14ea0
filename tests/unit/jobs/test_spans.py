"""Spans of a job."""

import dask
from distributed import span

from shardedstore.jobs.executors.spans import MOST_SPANS, Spans


def test_spans_lie_in_the_span_of_the_user_and_their_number_is_bounded():
    spans = Spans()
    with span("nightly"):
        for path in range(2 * MOST_SPANS):
            with spans.of(("ToZip", f"a{path}")):
                name = dask.get_annotations()["span"]["name"]
                assert name[:2] == ("nightly", "ToZip")
    assert name == ("nightly", "ToZip")
