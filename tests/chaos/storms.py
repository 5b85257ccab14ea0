"""An object store that refuses requests, hangs, cuts connections, loses answers, or is down for a while."""

from __future__ import annotations

from dataclasses import replace

from faultproxy import FaultProxy, Rule
from servers import upload

from chaos.place import Scene
from chaos.trial import BUCKET, Trial, make_trial
from chaos.work import SOURCE

PATIENCE = {"AWS_TIMEOUT": "2s", "AWS_CONNECT_TIMEOUT": "2s"}  # timeout of a request, for requests that hang
STORMS = {
    "S3 answers 10 % with 500, 503 or 429": (
        Rule("", "status", 503, fraction=0.06),
        Rule("", "status", 500, fraction=0.03),
        Rule("", "status", 429, fraction=0.01),
    ),
    "S3 lets 2 % of the requests hang": (Rule("", "hang", fraction=0.02),),
    "S3 cuts off 10 % of the objects that it sends, and 1 % of the listings": (
        Rule("^GET [^?]*$", "reset", 100, fraction=0.05),
        Rule("^GET [^?]*$", "truncate", 100, fraction=0.05),
        Rule("list-type", "truncate", 100, fraction=0.01),
    ),
    "S3 does what was asked and loses 10 % of the answers": (Rule("", "lose", fraction=0.1),),
}
GONE = "S3 is gone for 20 s"


def storm(scene: Scene, seed: str, fault: str, sink: str, gone: float = 20) -> Trial:
    """Read from and write to an object store behind a proxy with rules during the whole job."""
    assert scene.server is not None
    trial = make_trial(scene, seed, sink, in_cloud=True)
    folder = scene.server.folder(BUCKET, f"{trial.folder.name}/source.zarr")
    upload(folder.client, SOURCE.contents())
    trial.work = replace(trial.work, source=folder.url)
    rules = STORMS.get(fault, (Rule("", "gone", gone, skip=trial.random.randrange(10, 500), count=1),))
    proxy = FaultProxy(scene.server.endpoint, *(replace(rule) for rule in rules), seed=trial.random.randrange(1 << 30))
    with proxy:
        trial.environment |= {**PATIENCE, "AWS_ENDPOINT_URL": proxy.url}
        try:
            trial.finish()
        finally:
            trial.close()
        trial.tell(f"{sum(rule.fired for rule in proxy.rules)} of {len(proxy.log)} requests")
    return trial
