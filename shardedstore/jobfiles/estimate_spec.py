"""The options of ``shardedstore plan``: the inputs of the estimate."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobs.estimates.estimate import Estimate
from shardedstore.jobs.estimates.sampling import SAMPLE
from shardedstore.jobs.job_plan import JobPlan


class EstimateSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The inputs of the estimate of a job; see `JobPlan.estimate`."""

    count: Annotated[
        bool, Meta(description="List SOURCE, for exact numbers of files and bytes.", extra={"section": "Estimate"})
    ] = False
    sample: Annotated[
        str,
        Meta(
            description="Read decoded chunks of this size in all, for the stored sizes before and after. 0 reads none.",
            extra={"metavar": "SIZE"},
        ),
    ] = SAMPLE
    prices: Annotated[
        str | None, Meta(description="Show the cost by the price table in this TOML file.", extra={"metavar": "FILE"})
    ] = None
    rate: Annotated[
        str | None,
        Meta(
            description="Compute the time from this rate, such as '1.2 GiB/s'. The default is the rate of an earlier run.",
            extra={"metavar": "RATE"},
        ),
    ] = None
    test_write: Annotated[bool, Meta(description="Write a small file to DESTINATION, read it, and remove it.")] = False


def estimate_plan(plan: JobPlan, spec: EstimateSpec, workers: ClusterSpec) -> Estimate:
    """Return the estimate of a plan that a spec describes."""
    options: dict[str, Any] = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return plan.estimate(
        **options, threads=None if workers.workers is None else workers.workers * (workers.threads or 1)
    )
