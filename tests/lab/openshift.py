"""OpenShift's admission of pods on a Kubernetes node, as far as it concerns the chart.

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
    """Judge the pods of a namespace as OpenShift does, until the end of the block.

    The constraints of the release `barograph` in that namespace are the only ones beside `restricted-v2`. The
    API server applies a policy some seconds after it was created: wait until it refuses a pod.
    """
    node.ensure_namespace(namespace, "lab.invalid/openshift=true")
    policies = POLICIES.read_text().replace("CONSTRAINTS", f"{namespace}-barograph")
    node.kubectl("apply", "--filename=-", stdin=policies)
    try:
        yield
    finally:
        # The API stays, for a release that has yet to be uninstalled.
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            node.kubectl("delete", kind, "restricted", "charts")
