"""The vocabulary of staged rollouts in a site file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from roles.site.base import AbsoluteURL, NodeName, StrictModel

_PERCENT = "a number of nodes, or a percentage such as 25%"
Batch = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^(100|[1-9][0-9]?)%$", description=_PERCENT)]
"""How many nodes at a time."""


class ErrorRateSettings(StrictModel):
    """A question to Prometheus that is asked after each node."""

    url: AbsoluteURL
    """Prometheus, as the machine that runs pyinfra reaches it."""

    query: Annotated[str, Field(min_length=1)]
    """PromQL with one number for an answer; `{node}` becomes the node's name, `{address}` its address."""

    most: float
    """The highest value at which the rollout goes on."""


class RolloutSettings(StrictModel):
    """GitLab nodes are changed in stages, and each is seen healthy before the next one is touched."""

    canary: NodeName | None = None
    """The node that is changed first, alone. Default: the first one of the site file that does not read mail. If it has
    the application it also is the one node that migrates the database; else that is the first node with it."""

    batches: Annotated[list[Batch], Field(min_length=1)] = ["100%"]
    """How many nodes at a time after the canary, one number per stage; the last one is repeated. The reader is last."""

    drain: Annotated[list[str], Field(min_length=1)] | None = None
    """Program and arguments, run on this machine before a node is changed: takes it out of the load balancer. `{node}`
    and `{address}` are replaced. No shell."""

    undrain: Annotated[list[str], Field(min_length=1)] | None = None
    """The same after the node was seen healthy: puts it back."""

    timeout: Annotated[int, Field(ge=1, le=3600)] = 300
    """Seconds that a node may take to be healthy after `gitlab-ctl reconfigure` (puma starts in one to two minutes)."""

    settle: Annotated[int, Field(ge=0, le=3600)] = 0
    """Seconds for which it must then stay so."""

    error_rate: ErrorRateSettings | None = None
    """A limit that Prometheus knows."""
