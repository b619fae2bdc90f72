"""OpenShift's admission rules for pods on a Kubernetes node, as far as they concern the chart.

The rules are in tests/data/openshift.yaml.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.kubernetes import Node

POLICIES = Path(__file__).parents[1] / "data/openshift.yaml"
RESTRICTED = "restricted-v2 forbids this pod"
CHARTS = "the chart's constraints forbid this pod"


@contextmanager
def openshift(node: Node, namespace: str) -> Generator[None]:
    """Admit the pods of a namespace as OpenShift does, until the block ends.

    The constraints are `restricted-v2` and those of the release `barograph` in that namespace. The API server
    applies a policy some seconds after it was created, so wait until it refuses a pod.
    """
    node.ensure_namespace(namespace, "lab.invalid/openshift=true")
    policies = POLICIES.read_text().replace("CONSTRAINTS", f"{namespace}-barograph")
    node.kubectl("apply", "--filename=-", stdin=policies)
    try:
        yield
    finally:
        # The API stays, because a release may not be uninstalled yet.
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            node.kubectl("delete", kind, "restricted", "charts")
