"""What Ray's own autoscaler would start for a demand, given a cluster's configuration.

The scheduler is a pure function of the configuration and the demand; no cloud is asked. Its module is private to Ray,
and the version is pinned.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount
from ray.core.generated.common_pb2 import LabelSelectorOperator

IN = LabelSelectorOperator.LABEL_OPERATOR_IN


def nodes_started(
    config: Mapping[str, Any], shape: Mapping[str, float], count: int, labels: Mapping[str, str]
) -> dict[str, int]:
    """Nodes per type that Ray starts for ``count`` actors of a shape, besides those that it always keeps.

    Raises:
        AssertionError: some of the actors fit no node type that is left.
    """
    always = _scheduled(config, [])
    selectors = [[(name, IN, [value]) for name, value in labels.items()]] if labels else []
    request = ResourceRequestUtil.make(dict(shape), label_selectors=selectors)
    started = _scheduled(config, [ResourceRequestByCount(request=request, count=count)])
    return {name: n - always.get(name, 0) for name, n in started.items() if n > always.get(name, 0)}


def _scheduled(config: Mapping[str, Any], demands: Sequence[ResourceRequestByCount]) -> dict[str, int]:
    autoscaling = AutoscalingConfig(copy.deepcopy(dict(config)), skip_content_hash=True)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=autoscaling.get_node_type_configs(),
            max_num_nodes=autoscaling.get_max_num_nodes(),
            resource_requests=list(demands),
        )
    )
    assert not reply.infeasible_resource_requests, f"no node type has room for {reply.infeasible_resource_requests}"
    return {launch.instance_type: launch.count for launch in reply.to_launch}
