"""The chart's values for network, identity and admission, and what kube-score finds in its manifests."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any, cast

import pytest
import yaml

from tests.integration.conftest import need
from tests.lab import helm, setup

SOCKETS = {"sockets": {"directory": "/run/vm"}}

ACCEPTED: Mapping[tuple[str, str], str] = {
    (
        "container-ephemeral-storage-request-and-limit",
        "Ephemeral Storage limit is not set",
    ): "The kubelet would evict an agent for its log. Its state is on the node, or in memory with a bound.",
    (
        "container-ephemeral-storage-request-and-limit",
        "Ephemeral Storage request is not set",
    ): "The agent writes no files in its container, only its log.",
    (
        "container-resources",
        "CPU limit is not set",
    ): "A limit would only delay readings; the request reserves the agent's share.",
    (
        "container-image-pull-policy",
        "ImagePullPolicy is not set to Always",
    ): "A node must be able to start its agent while the registry is down. Pin the image by `image.digest`.",
    (
        "container-security-context-user-group-id",
        "The container is running with a low user ID",
    ): (
        "The init container is root to change an owner, and KubeVirt's QEMUs are user 107. The operator may "
        "choose root. OpenShift chooses the user of the pod of `helm test`."
    ),
    (
        "container-security-context-user-group-id",
        "The container running with a low group ID",
    ): "For the same reasons as the user.",
    (
        "pod-networkpolicy",
        "The pod does not have a matching NetworkPolicy",
    ): "Only the pod of `helm test`, which listens on no port and ends within seconds.",
    (
        "pod-probes",
        "Container is missing a readinessProbe",
    ): "With `retire` the init containers do the work; the container only waits for the end of the release.",
}
"""The accepted findings of kube-score: the check, its message, and the reason to accept it."""


@pytest.fixture(scope="module", autouse=True)
def _helm() -> None:
    need("helm")


def pod_of(values: Mapping[str, Any]) -> dict[str, Any]:
    manifests = helm.render_with({**SOCKETS, **values})
    return helm.one(manifests, "DaemonSet")["spec"]["template"]["spec"]


def config_of(values: Mapping[str, Any]) -> dict[str, Any]:
    manifests = helm.render_with({**SOCKETS, **values})
    return yaml.safe_load(helm.one(manifests, "ConfigMap")["data"]["barograph.yaml"])


def probed(pod: Mapping[str, Any]) -> set[str | None]:
    probes = [each for name, each in pod["containers"][0].items() if name.endswith("Probe")]
    assert len(probes) == 3
    return {each["httpGet"].get("host") for each in probes}


def test_kube_score_finds_only_what_is_accepted_with_a_reason() -> None:
    need("kube-score")
    found: set[tuple[str, str]] = set()
    for values in [*helm.CI, *helm.EXAMPLES]:
        text = yaml.safe_dump_all(helm.render("--values", values))
        said = subprocess.run(
            [setup.kube_score(), "score", "--output-format=json", "-"],
            input=text,
            check=False,  # it fails if there is a finding
            capture_output=True,
            text=True,
        ).stdout
        found |= {
            (check["check"]["id"], comment["summary"])
            for judged in json.loads(said)
            for check in judged["checks"]
            if not check["skipped"] and check["grade"] < 10  # 10 is the best grade
            for comment in cast(list[dict[str, str]], check["comments"] or [])
        }

    assert found == set(ACCEPTED)


def test_without_a_host_network_the_pods_use_the_clusters_dns_and_listen_on_every_address() -> None:
    pod = pod_of({})

    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (False, "ClusterFirst")
    assert probed(pod) == {None}
    assert config_of({})["web"]["listen"] == "0.0.0.0:19464"


def test_only_the_node_may_connect_in_the_host_network_unless_an_address_is_set() -> None:
    pod = pod_of({"hostNetwork": True})
    kinds = {each["kind"] for each in helm.render_with({**SOCKETS, "hostNetwork": True})}

    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert probed(pod) == {"127.0.0.1"}
    assert config_of({"hostNetwork": True})["web"]["listen"] == "127.0.0.1:19464"
    assert "Pod" not in kinds  # helm test could not connect

    exposed = {"hostNetwork": True, "web": {"address": "0.0.0.0"}}
    assert probed(pod_of(exposed)) == {None}
    assert config_of(exposed)["web"]["listen"] == "0.0.0.0:19464"
    assert probed(pod_of({"hostNetwork": True, "web": {"address": "[::1]"}})) == {"::1"}


def test_without_a_machine_id_the_file_is_not_mounted_and_the_id_has_the_nodes_name() -> None:
    pod = pod_of({"host": {"id": "eu-1.$(NODE_NAME)"}})
    names = [each["name"] for each in pod["containers"][0]["env"]]

    assert "machine-id" not in {each["name"] for each in pod["volumes"]}
    assert "machine-id" not in {each["name"] for each in pod["containers"][0]["volumeMounts"]}
    assert "host" not in config_of({"host": {"id": "eu-1.$(NODE_NAME)"}})
    # The kubelet replaces only variables that are defined before.
    assert names.index("NODE_NAME") < names.index("BAROGRAPH_HOST__ID")


def test_an_endpoint_on_the_node_is_a_variable_and_the_rest_of_its_section_stays() -> None:
    values = {"config": {"otlp": {"endpoint": "http://$(HOST_IP):4318", "interval": "20s"}}}
    env = {each["name"]: each for each in pod_of(values)["containers"][0]["env"]}

    assert config_of(values)["otlp"] == {"interval": "20s"}
    assert env["BAROGRAPH_OTLP__ENDPOINT"]["value"] == "http://$(HOST_IP):4318"
    assert env["HOST_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    policy = helm.one(
        helm.render_with({**SOCKETS, **values, "networkPolicy": {"egressPorts": []}}), "NetworkPolicy"
    )
    assert policy["spec"]["egress"][1]["ports"] == [{"port": 4318, "protocol": "TCP"}]


def test_pods_that_are_replaced_by_hand_have_no_rolling_update() -> None:
    manifests = helm.render_with({**SOCKETS, "updateStrategy": {"type": "OnDelete"}})

    assert helm.one(manifests, "DaemonSet")["spec"]["updateStrategy"] == {"type": "OnDelete"}


@pytest.mark.parametrize(
    ("values", "mounted"),
    [
        (SOCKETS, {"machine-id": "/etc/machine-id", "sockets": "/run"}),
        (
            {"sockets": {"directory": "/run/vm", "mount": "/run/vm"}, "host": {"id": "$(NODE_NAME)"}},
            {"sockets": "/run/vm"},
        ),
        ({"preset": "libvirt"}, {"machine-id": "/etc/machine-id", "libvirt": "/run/libvirt"}),
        ({"preset": "kubevirt"}, {"machine-id": "/etc/machine-id", "pods": "/var/lib/kubelet/pods"}),
    ],
    ids=["sockets", "narrow", "libvirt", "kubevirt"],
)
def test_a_preset_mounts_only_what_it_needs_and_only_the_state_is_writable(
    values: Mapping[str, Any], mounted: Mapping[str, str]
) -> None:
    pod = helm.one(helm.render_with(values), "DaemonSet")["spec"]["template"]["spec"]
    of_the_node = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
    writable = [each["name"] for each in pod["containers"][0]["volumeMounts"] if not each.get("readOnly")]

    assert of_the_node == {**mounted, "state": "/var/lib/barograph"}
    assert writable == ["state"]


def constraints(values: Mapping[str, Any]) -> dict[str, Any]:
    openshift = {"openshift": {"securityContextConstraints": {"create": True}}}
    return helm.one(helm.render_with({**SOCKETS, **openshift, **values}), "SecurityContextConstraints")


def test_the_constraints_allow_what_the_values_ask_for_and_no_more() -> None:
    default = constraints({})
    memory = constraints({"state": {"path": ""}, "hostNetwork": True, "seLinuxOptions": {"type": "spc_t"}})

    assert {name for name, each in default.items() if each is True} == {
        "allowHostDirVolumePlugin",
        "readOnlyRootFilesystem",
    }
    assert (default["allowedCapabilities"], default["runAsUser"]) == (["CHOWN"], {"type": "RunAsAny"})
    assert default["seLinuxContext"] == {"type": "MustRunAs"}
    assert (memory["allowedCapabilities"], memory["runAsUser"]) == ([], {"type": "MustRunAs", "uid": 10001})
    assert memory["seLinuxContext"]["seLinuxOptions"] == {"type": "spc_t"}
    assert memory["allowHostNetwork"] is memory["allowHostPorts"] is True


@pytest.mark.parametrize(
    "given", [{"create": True}, {"name": "mine"}, {"create": True, "name": "mine"}], ids=str
)
def test_only_the_agents_service_account_may_use_the_constraints(given: Mapping[str, Any]) -> None:
    values = {**SOCKETS, "openshift": {"securityContextConstraints": given}}
    manifests = helm.render_with(values)
    name = given.get("name", "barograph-barograph")

    made = [each["metadata"]["name"] for each in manifests if each["kind"] == "SecurityContextConstraints"]
    assert made == ([name] if "create" in given else [])
    (rule,) = helm.one(manifests, "Role")["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == ([name], ["use"])
    assert helm.one(manifests, "RoleBinding")["subjects"] == [
        {"kind": "ServiceAccount", "name": "barograph", "namespace": "barograph"}
    ]
