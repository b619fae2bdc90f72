"""A real API server accepts the chart's manifests, and Pod Security levels refuse them as documented."""

import json
import re
from pathlib import Path

import pytest

from tests.lab import helm
from tests.lab.kubernetes import Node

pytestmark = [pytest.mark.alone, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("values", [*helm.CI, *helm.EXAMPLES], ids=helm.named)
def test_the_real_api_server_accepts_the_manifests(node: Node, values: Path) -> None:
    rendered = helm.render("--values", values)
    manifests = [each for each in rendered if each["apiVersion"] not in helm.OF_OTHERS]
    node.ensure_namespace("barograph")

    said = node.kubectl(
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "--filename=-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}),
    )

    assert said.count("(server dry run)") == len(manifests)


HOST_PATH = "hostPath volumes"
ROOT = "runAsUser=0"
NOT_NON_ROOT = "runAsNonRoot != true"
CAPABILITIES = "unrestricted capabilities"
KIND = "restricted volume types"
SE_LINUX = "seLinuxOptions"
NETWORK = "host namespaces"
PORT = "hostPort"
PREPARES = {KIND, ROOT, NOT_NON_ROOT, CAPABILITIES}


@pytest.mark.parametrize(
    ("values", "baseline", "restricted"),
    [
        ({}, {HOST_PATH}, PREPARES),
        ({"state": {"path": ""}}, {HOST_PATH}, {KIND}),
        ({"state": {"prepare": False}}, {HOST_PATH}, {KIND}),
        ({"runAs": {"user": 0}, "state": {"path": ""}}, {HOST_PATH}, {KIND, ROOT, NOT_NON_ROOT}),
        (
            {"runAs": {"user": 0}, "capabilities": ["DAC_OVERRIDE"], "state": {"path": ""}},
            {HOST_PATH},
            {KIND, ROOT, NOT_NON_ROOT, CAPABILITIES},
        ),
        (
            {"seLinuxOptions": {"type": "spc_t"}, "state": {"path": ""}},
            {HOST_PATH, SE_LINUX},
            {KIND, SE_LINUX},
        ),
        ({"hostNetwork": True, "state": {"path": ""}}, {HOST_PATH, NETWORK, PORT}, {KIND, NETWORK, PORT}),
    ],
    ids=["default", "in memory", "not prepared", "root", "several users", "SELinux", "host network"],
)
def test_each_pod_security_level_refuses_what_the_docs_list_and_no_more(
    node: Node, values: dict[str, object], baseline: set[str], restricted: set[str]
) -> None:
    template = helm.one(helm.render_with({"sockets": {"directory": "/run/vm"}, **values}), "DaemonSet")
    spec = template["spec"]["template"]["spec"]
    del spec["priorityClassName"], spec["serviceAccountName"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"}, "spec": spec}

    def missed(level: str) -> set[str]:
        node.ensure_namespace(level, f"pod-security.kubernetes.io/enforce={level}")
        try:
            node.kubectl(
                "apply", "--dry-run=server", "--filename=-", "--namespace", level, stdin=json.dumps(pod)
            )
        except RuntimeError as error:
            return set(
                re.findall(r"(?:: |, )([a-zA-Z][\w !=]*?) \((?:volume|container|pod|hostNetwork)", str(error))
            )
        return set()

    assert missed("baseline") == baseline
    assert missed("restricted") == restricted
    assert missed("privileged") == set()
