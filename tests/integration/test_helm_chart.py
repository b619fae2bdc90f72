"""The rendered chart is valid for the agent and for Kubernetes, refuses bad values, and limits rights."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml

from tests.contract.generate_rules import RULES, source
from tests.integration.conftest import need
from tests.lab import helm, setup

BAD: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parents[1] / "data/bad_values.yaml").read_text())
VALUES = [*helm.CI, *helm.EXAMPLES]
KUBERNETES = ("1.25", "1.35", "1.36", "1.37")
"""The oldest version that the chart supports (`kubeVersion`), and the three newest ones."""

SOCKETS = {"sockets": {"directory": "/run/vm"}}

USERS = {"kubevirt": 107, "libvirt": 65534}
"""The agent's user with a preset; 10001 with any other."""


def asks_libvirt(values: Path) -> bool:
    """Return whether the preset is one for libvirt."""
    return yaml.safe_load(values.read_text()).get("preset", "sockets") != "sockets"


@pytest.fixture(scope="module", autouse=True)
def _helm() -> None:
    need("helm")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings in one, with shared sections merged; one level is enough here."""
    shared = {name: {**base[name], **over[name]} for name in base.keys() & over.keys()}
    return {**base, **over, **shared}


def pod_of(manifests: list[helm.Manifest]) -> dict[str, Any]:
    return helm.one(manifests, "DaemonSet")["spec"]["template"]["spec"]


OF_THE_NODE = {"spec.nodeName": "node-1", "status.hostIP": "192.0.2.11"}
"""What the kubelet puts into the environment of a pod."""


def environment(manifests: list[helm.Manifest]) -> dict[str, str]:
    """Return the agent's environment as the kubelet builds it: a variable may use those before it."""
    made: dict[str, str] = {}
    pod = pod_of(manifests)
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    for each in next(each["env"] for each in containers if "env" in each):
        field = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        value = OF_THE_NODE[field] if field else each.get("value", "")
        for name, known in made.items():
            value = value.replace(f"$({name})", known)
        made[each["name"]] = value
    return made


def test_the_chart_passes_helms_own_lint() -> None:
    helm.helm("lint", "--strict", helm.CHART, "--values", helm.CI[0])


@pytest.mark.parametrize("values", helm.EXAMPLES, ids=helm.named)
def test_the_examples_manifests_are_up_to_date(values: Path) -> None:
    folder = values.parent / "rendered"
    kept = {path.name: path.read_text() for path in folder.iterdir()}

    assert kept == helm.rendered(values), "run `python -m tests.lab.helm`"


@pytest.mark.parametrize("values", VALUES, ids=helm.named)
def test_the_configuration_is_one_that_the_agent_accepts(values: Path, tmp_path: Path) -> None:
    maps = [each["data"] for each in helm.render("--values", values) if each["kind"] == "ConfigMap"]
    (text,) = (data["barograph.yaml"] for data in maps if "barograph.yaml" in data)
    machine_id, authority, config = tmp_path / "machine-id", tmp_path / "ca.pem", tmp_path / "barograph.yaml"
    machine_id.write_text("4c8ad2f0e1b74b6d9a37c5f2d86e9b10\n")
    authority.write_bytes((Path(__file__).parents[1] / "data/tls/cert.pem").read_bytes())
    # The files that a pod mounts.
    password, headers = tmp_path / "kafka-password", tmp_path / "otlp-headers"
    password.write_text("secret")
    (tmp_path / "kafka-client-secret").write_text("secret")
    headers.write_text("authorization: Bearer secret\n")
    mounted = {
        "/host/machine-id": machine_id,
        "/tls/ca.pem": authority,
        "/etc/barograph-secret/kafka-password": password,
        "/etc/barograph-secret/kafka-client-secret": tmp_path / "kafka-client-secret",
        "/etc/barograph-secret/otlp-headers": headers,
    }
    for place, file in mounted.items():
        text = text.replace(place, str(file))
    config.write_text(text)
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", **environment(helm.render("--values", values))}
    secret = {"BAROGRAPH_KAFKA__SASL__PASSWORD": "secret"} if helm.named(values) == "extras" else {}

    bindings: dict[str, str] = {}
    if asks_libvirt(values):
        need("libvirt")
        bindings = {"PYTHONPATH": str(setup.libvirt())}

    done = subprocess.run(
        [sys.executable, "-m", "agent", "check-config", "--config", str(config)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **pod, **secret, **bindings},
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests_are_valid_for_this_version_of_kubernetes(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise each manifest's validation parses megabytes of schemas again.
    parsed_once = cache(kubernetes_validate.utils.schema_contents)
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", parsed_once)
    for values in VALUES:
        if version == "1.25" and helm.named(values) == "apparmor":
            continue
        for manifest in helm.render("--values", values, "--kube-version", version):
            if manifest["apiVersion"] not in helm.OF_OTHERS:
                kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_an_old_kubernetes_lacks_is_refused_with_the_alternative() -> None:
    with pytest.raises(
        RuntimeError, match=r"appArmorProfile: Kubernetes v1.25 has no such field.*podAnnotations"
    ):
        helm.render("--values", helm.CHART / "ci/apparmor-values.yaml", "--kube-version", "1.25")


def test_the_versions_are_the_oldest_supported_and_the_newest_known() -> None:
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    newest = kubernetes_validate.latest_version().rpartition(".")[0]

    assert chart["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
    assert newest == KUBERNETES[-1]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad["id"])
def test_a_bad_value_is_refused_with_a_message_that_names_it(bad: Mapping[str, Any]) -> None:
    with pytest.raises(RuntimeError) as refused:
        helm.render_with(merged(SOCKETS, bad["values"]))

    assert bad["names"] in str(refused.value)
    assert bad["says"] in str(refused.value)


def test_the_table_of_bad_values_is_as_long_as_it_must_be() -> None:
    assert len({bad["id"] for bad in BAD}) == len(BAD) >= 30


def test_rules_and_dashboards_are_off_by_default_and_rendered_as_configured() -> None:
    def found(manifests: list[helm.Manifest]) -> set[str]:
        names = {each["metadata"]["name"] for each in manifests if each["kind"] == "ConfigMap"}
        return {*names, *(each["kind"] for each in manifests if each["kind"] == "PrometheusRule")}

    default = found(helm.render_with(SOCKETS))
    manifests = helm.render("--values", helm.CHART / "ci/monitoring-values.yaml")
    rule = helm.one(manifests, "PrometheusRule")
    kept = yaml.safe_load(RULES.read_text().replace(source()["runbooks"], "https://docs.example/runbooks"))

    boards = {f"barograph-dashboard-{name}" for name in ("fleet", "host", "vm", "agent", "streams")}
    assert default == {"barograph"}
    assert found(manifests) == {"barograph", "PrometheusRule", *boards}
    assert rule["spec"] == kept
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    board = next(each for each in manifests if each["metadata"]["name"] == "barograph-dashboard-vm")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["metadata"]["annotations"] == {"grafana_folder": "Barograph"}
    assert json.loads(board["data"]["barograph-vm.json"])["uid"] == "barograph-vm"


@pytest.mark.parametrize("values", VALUES, ids=helm.named)
def test_the_pods_have_only_the_rights_that_the_values_give(values: Path) -> None:
    given = yaml.safe_load(values.read_text())
    manifests = helm.render("--values", values)
    pod = pod_of(manifests)
    user = given.get("runAs", {}).get("user", USERS.get(given.get("preset"), 10001))

    assert pod["automountServiceAccountToken"] is False
    assert (pod["hostNetwork"], pod["hostPID"]) == (given.get("hostNetwork", False), False)
    assert pod["securityContext"]["runAsUser"] == user
    assert pod["securityContext"]["runAsNonRoot"] is (user != 0)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    added: dict[str, object] = {}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert "privileged" not in context
        assert context["capabilities"]["drop"] == ["ALL"]
        added[container["name"]] = context["capabilities"].get("add", [])
    prepares = added.pop("prepare-state", added.pop("remove-state", ["CHOWN"]))
    assert prepares == ["CHOWN"]
    assert all(each == given.get("capabilities", []) for each in added.values())
    rules = [rule for each in manifests if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]]
    assert [rule["verbs"] for rule in rules] == ([["use"]] if "openshift" in given else [])


def test_the_state_is_the_only_writable_directory_of_the_node() -> None:
    pod = pod_of(helm.render_with(SOCKETS))
    of_the_node = {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}

    mounts = pod["containers"][0]["volumeMounts"]

    assert of_the_node == {"machine-id", "state", "sockets"}
    writable = {each["name"] for each in mounts if not each.get("readOnly")}
    assert writable == {"state"}


def test_the_parent_of_the_sockets_directory_is_mounted_and_follows_the_nodes_mounts() -> None:
    pod = pod_of(helm.render_with({"sockets": {"directory": "/run/kvm/sockets"}}))

    volume = next(each for each in pod["volumes"] if each["name"] == "sockets")
    mount = next(each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "sockets")

    assert volume["hostPath"] == {"path": "/run/kvm", "type": "Directory"}
    assert mount["mountPath"] == "/host/run/kvm"
    assert mount["mountPropagation"] == "HostToContainer"


def test_root_sees_the_sockets_directory_only() -> None:
    pod = pod_of(helm.render_with({**SOCKETS, "runAs": {"user": 0}}))

    assert next(each for each in pod["volumes"] if each["name"] == "sockets")["hostPath"]["path"] == "/run/vm"


def test_only_prometheus_and_the_charts_test_may_connect_by_default() -> None:
    def ingress(values: Mapping[str, Any]) -> list[dict[str, Any]]:
        (rule,) = helm.one(helm.render_with({**SOCKETS, **values}), "NetworkPolicy")["spec"]["ingress"]
        assert rule["ports"] == [{"port": "web", "protocol": "TCP"}]
        return rule["from"]

    test, prometheus = ingress({})
    assert test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    assert prometheus["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}
    assert ingress({"networkPolicy": {"ingressFrom": []}}) == [test]


def test_the_agents_may_connect_to_the_ports_that_the_configuration_names() -> None:
    policy = helm.one(helm.render("--values", helm.CHART / "ci/secret-values.yaml"), "NetworkPolicy")

    ports = {each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]}

    assert {53, 443, 4317, 4318, 9092, 19093, 29093} <= ports
    oauth = helm.one(helm.render("--values", helm.CHART / "ci/oauth-values.yaml"), "NetworkPolicy")
    assert 8443 in {each["port"] for rule in oauth["spec"]["egress"] for each in rule["ports"]}


def test_a_secret_is_mounted_for_the_agents_group_and_is_in_no_configmap() -> None:
    values = yaml.safe_load((helm.CHART / "ci/secret-values.yaml").read_text())
    manifests = helm.render_with(values)
    pod, config = (
        pod_of(manifests),
        yaml.safe_load(helm.one(manifests, "ConfigMap")["data"]["barograph.yaml"]),
    )

    secret = next(each for each in pod["volumes"] if each["name"] == "secret")["secret"]

    assert secret["secretName"] == "barograph"
    assert secret["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"] == 10001
    mounted = {f"/etc/barograph-secret/{each['path']}" for each in secret["items"]}
    assert mounted == {config["kafka"]["sasl"]["password_file"], config["otlp"]["headers_file"]}
    assert config["kafka"]["sasl"]["mechanism"] == "SCRAM-SHA-512"


@pytest.mark.parametrize(
    ("key", "name"), [("kafkaTokenKey", "token_file"), ("kafkaClientSecretKey", "client_secret_file")]
)
def test_a_token_or_the_secret_of_a_client_is_mounted(key: str, name: str) -> None:
    values = {**SOCKETS, "secret": {"existingSecret": "barograph", key: "the-key"}}
    manifests = helm.render_with(values)

    config = yaml.safe_load(helm.one(manifests, "ConfigMap")["data"]["barograph.yaml"])
    secret = next(each for each in pod_of(manifests)["volumes"] if each["name"] == "secret")["secret"]

    (item,) = secret["items"]
    assert item["key"] == "the-key"
    assert config["kafka"]["sasl"]["oauth"] == {name: f"/etc/barograph-secret/{item['path']}"}


def test_by_default_no_taint_is_tolerated() -> None:
    assert "tolerations" not in pod_of(helm.render_with(SOCKETS))


def test_a_changed_configuration_replaces_the_pods_and_a_changed_annotation_does_not() -> None:
    def checksum(values: Mapping[str, Any]) -> str:
        template = helm.one(helm.render_with(merged(SOCKETS, values)), "DaemonSet")["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) != checksum({"config": {"polling": {"interval": "5s"}}})
    assert checksum({}) == checksum({"service": {"annotations": {"a": "b"}}})


def test_there_are_never_two_agents_on_a_node() -> None:
    strategy = helm.one(helm.render_with(SOCKETS), "DaemonSet")["spec"]["updateStrategy"]

    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}


def test_the_grace_period_is_longer_than_the_agents_own_deadline() -> None:
    manifests = helm.render_with({**SOCKETS, "shutdownDeadlineSeconds": 45})

    config = yaml.safe_load(helm.one(manifests, "ConfigMap")["data"]["barograph.yaml"])

    assert config["shutdown"]["deadline"] == "45s"
    assert pod_of(manifests)["terminationGracePeriodSeconds"] == 65


def test_without_a_state_path_nothing_is_kept_and_no_container_is_root() -> None:
    manifests = helm.render_with({**SOCKETS, "state": {"path": ""}})
    pod = pod_of(manifests)

    config = yaml.safe_load(helm.one(manifests, "ConfigMap")["data"]["barograph.yaml"])

    assert config["spool"] == {"mode": "none"}
    assert "initContainers" not in pod
    assert next(each for each in pod["volumes"] if each["name"] == "state")["emptyDir"]


def test_the_packaged_chart_contains_no_tests_and_no_examples(tmp_path: Path) -> None:
    helm.helm("package", helm.CHART, "--destination", tmp_path)
    (archive,) = tmp_path.glob("*.tgz")

    names = subprocess.run(["tar", "-tf", archive], check=True, capture_output=True, text=True).stdout

    assert "barograph/README.md" in names
    assert "/ci/" not in names
    assert "/examples/" not in names
