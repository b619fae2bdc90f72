"""The chart on a real node, with real QEMUs and guests, a real Kafka and a real Prometheus."""

import json
import os
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.accounts import Run, accounted, once_each
from tests.integration.pods import (
    ADDRESS,
    AGENTS_USER,
    NAME,
    QEMUS_USER,
    Release,
    as_user,
    documents,
    make_directory,
    of_vm,
    on_this_machine,
    state_of,
    to,
    topics_of,
)
from tests.lab import helm, qemu
from tests.lab.kafka import RealKafka, consume
from tests.lab.kubernetes import Node
from tests.lab.observer import Observer
from tests.lab.openshift import CHARTS, RESTRICTED, openshift
from tests.lab.process import free_port, listens
from tests.lab.prometheus import prometheus

pytestmark = [pytest.mark.guest, pytest.mark.alone, pytest.mark.paired, pytest.mark.timeout(1200)]

WITHIN_S = 60.0
"""The promised time from `helm install` to samples and metrics."""

LOADED = 3
"""How many times slower a machine may be that runs the node, the guests, Kafka and Prometheus."""


def test_three_values_bring_samples_to_kafka_and_metrics_to_prometheus_within_a_minute(
    node: Node, released: Release, folder: Path, pods_kafka: RealKafka
) -> None:
    sockets = make_directory(folder / "run" / "vm", AGENTS_USER)
    for topic in ("barograph.samples", "barograph.states", "barograph.memory"):
        pods_kafka.create_topic(topic)
    with ExitStack() as stack:
        metrics = stack.enter_context(prometheus(folder / "prometheus", host=ADDRESS))
        for name in ("g0", "g1"):
            stack.enter_context(qemu.guest(sockets, name, command=as_user(AGENTS_USER)))
        begun_s = time.monotonic()

        released.install(
            on_this_machine(folder),
            *("--set", f"sockets.directory={sockets}"),
            *("--set", f"config.kafka.bootstrap_servers={pods_kafka.bootstrap}"),
            *("--set", f"config.otlp.endpoint={metrics.otlp}"),
        )

        def in_kafka() -> bool:
            return {each["vm"]["name"] for each in documents(pods_kafka, "barograph.samples")} == {"g0", "g1"}

        def in_prometheus() -> bool:
            found = metrics.query("qemu_vm_guest_memory_free_bytes")
            return {each["metric"]["qemu_vm_name"] for each in found} == {"g0", "g1"}

        released.wait(in_kafka, "a sample of each guest in Kafka")
        released.wait(in_prometheus, "free memory of each guest in Prometheus")
        took_s = time.monotonic() - begun_s
        assert took_s < LOADED * WITHIN_S
        print(f"from helm install to samples in Kafka and metrics in Prometheus: {took_s:.1f} s")

        fields = released.status()
        assert fields["Uid"].split() == [str(AGENTS_USER)] * 4
        assert {fields[name].strip("0") for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {""}
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
        sample = documents(pods_kafka, "barograph.samples")[0]
        assert sample["host"]["name"] == NAME
        said = released.helm("test", "barograph", "--logs")
        assert "1 of 1 agents are ready" in said
        assert "kafka.samples: ok" in said


@pytest.mark.long
def test_restarts_and_upgrades_of_a_pod_lose_no_update(
    node: Node, released: Release, folder: Path, pods_kafka: RealKafka
) -> None:
    sockets = make_directory(folder / "run" / "vm", AGENTS_USER)
    topics = topics_of(pods_kafka, folder)
    runs: list[Run] = []

    def live(seconds: float = 3.0) -> None:
        """Let the current agent read for a while. The next step of the test ends its run."""
        time.sleep(seconds)
        runs.append(Run(killed_ms=time.time() * 1000))

    with ExitStack() as stack:
        vms = [
            stack.enter_context(qemu.guest(sockets, name, command=as_user(AGENTS_USER)))
            for name in ("g0", "g1")
        ]
        observer = stack.enter_context(Observer([vm.truth for vm in vms], folder))
        released.install(
            {
                "sockets": {"directory": str(sockets)},
                "config": {"kafka": to(pods_kafka, topics), "polling": {"interval": "1s"}},
                **on_this_machine(folder),
            }
        )
        live()

        old = released.name
        released.kubectl("delete", "pod", old, "--wait=false")
        released.wait_until_replaced(old)
        live()

        os.kill(released.pid, signal.SIGKILL)
        released.wait(lambda: released.restarts == 1 and released.ready, "the restarted container")
        live()

        name = released.name
        node.restart_kubelet()
        released.wait(lambda: released.ready, "ready under the new kubelet")
        assert (released.name, released.restarts) == (name, 1)
        live()

        old = released.name
        released.upgrade({"config": {"polling": {"heartbeat": "1m"}}})
        assert released.name != old
        live()

        old = released.name
        released.rollback()
        assert released.name != old
        live()

        # Until here the polling intervals stay, whatever restarts.
        shown = observer.updates()
        for vm in vms:
            gaps = [
                b.first_seen_ms - a.first_seen_ms
                for a, b in zip(shown[vm.truth], shown[vm.truth][1:], strict=False)
            ]
            assert max(gaps[1:]) < 2500
        released.upgrade({"retire": True})
        shown = observer.stop()
        for vm in vms:
            with vm.monitor() as monitor:
                assert monitor.interval_s() == 0
        assert list(state_of(folder).iterdir()) == []
        released.helm("uninstall", "barograph", "--wait")

        def nothing_is_left() -> bool:  # Helm waits only for the DaemonSet, and its pods end later
            left = released.kubectl("get", "all,configmaps,serviceaccounts", "-o", "name").split()
            return set(left) <= {"configmap/kube-root-ca.crt", "serviceaccount/default"}

        released.wait(nothing_is_left, "nothing left of the release")

    states = documents(pods_kafka, topics[1])
    lives = sorted({each["run"] for each in states})  # UUIDv7: in order of time
    assert len(lives) == len(runs) - 1  # the kubelet's restart ended no run
    records = once_each(consume(pods_kafka.bootstrap, [topics[0]]))
    runs.pop(3)
    for run, id in zip(runs, lives, strict=True):
        for each in states:
            path = each.get("vm", {}).get("path")
            if each["run"] == id and path and (each["state"] == "reporting" or each["reason"] == "settling"):
                run.first_reading_ms.setdefault(path.removeprefix("/host"), each["observed_at_ms"])
    owed_in_all = 0
    for vm in vms:
        mine = of_vm(records, vm.name)
        owed_in_all += accounted(mine, vm.qmp, shown[vm.truth], runs)
    assert owed_in_all > 20
    print(f"{len(lives)} runs of the agent: {owed_in_all} updates due, all arrived, none twice")


@pytest.mark.long
def test_vms_and_their_directory_come_and_go_under_a_running_pod(
    node: Node, released: Release, folder: Path, pods_kafka: RealKafka
) -> None:
    parent = make_directory(folder / "run", AGENTS_USER)
    topics = topics_of(pods_kafka, folder)
    sockets = parent / "vm"
    released.install(  # on a node that does not have this directory yet
        {
            "sockets": {"directory": str(sockets)},
            "config": {
                "kafka": to(pods_kafka, topics),
                "polling": {"interval": "1s"},
                "discovery": {"rescan": "1s"},
            },
            **on_this_machine(folder),
        }
    )
    assert released.states() == {}

    make_directory(sockets, AGENTS_USER)
    with qemu.guest(sockets, "g0", command=as_user(AGENTS_USER)) as first:
        released.wait(lambda: released.states().get("g0.qmp", ("",))[0] == "reporting", "g0 reporting")
        with qemu.guest(sockets, "g1", command=as_user(AGENTS_USER)):
            released.wait(lambda: released.states().get("g1.qmp", ("",))[0] == "reporting", "g1 reporting")
        released.wait(lambda: released.states().get("g1.qmp", ("gone",))[0] == "gone", "g1 gone")
        first.restart()
        first.wait_until_booted()
        released.wait(lambda: released.states()["g0.qmp"][0] == "reporting", "g0 again")

    shutil.rmtree(sockets)
    make_directory(sockets, AGENTS_USER)
    with (
        qemu.guest(sockets, "g2", command=as_user(AGENTS_USER)),
        qemu.guest(sockets, "alien", command=as_user(QEMUS_USER)),
    ):
        released.wait(lambda: released.states().get("g2.qmp", ("",))[0] == "reporting", "g2 reporting")
        released.wait(
            lambda: released.states().get("alien.qmp", ("",))[0] == "unreachable", "the alien's state"
        )

        assert "denied" in released.states()["alien.qmp"][1]
        assert (released.restarts, released.ready) == (0, True)


@pytest.mark.parametrize("as_root", [False, True], ids=["QEMU's user", "root with DAC_OVERRIDE"])
def test_the_agent_must_run_as_the_sockets_user_or_as_root_with_dac_override(
    node: Node, released: Release, folder: Path, as_root: bool
) -> None:
    sockets = make_directory(folder / "run" / "vm", QEMUS_USER)
    who: dict[str, object] = {"runAs": {"user": QEMUS_USER, "group": QEMUS_USER}}
    if as_root:
        who = {"runAs": {"user": 0, "group": 0}, "capabilities": ["DAC_OVERRIDE"]}
    with (
        qemu.idle(sockets, "mine", command=as_user(QEMUS_USER)),
        qemu.idle(sockets, "others", command=as_user(QEMUS_USER + 1)),
    ):
        released.install({"sockets": {"directory": str(sockets)}, **who, **on_this_machine(folder)})

        released.wait(lambda: released.states().get("mine.qmp", ("",))[0] == "waiting", "its own user's VM")
        released.wait(
            lambda: (
                released.states().get("others.qmp", ("",))[0] == ("waiting" if as_root else "unreachable")
            ),
            "another user's VM",
        )


def test_in_the_nodes_network_without_a_machine_id_it_sends_to_the_nodes_own_collector(
    node: Node, released: Release, folder: Path
) -> None:
    sockets = make_directory(folder / "run" / "vm", AGENTS_USER)
    port = free_port()
    with (
        qemu.idle(sockets, "vm", command=as_user(AGENTS_USER)),
        prometheus(folder / "prometheus", host=ADDRESS) as metrics,
    ):
        released.install(
            {
                **on_this_machine(folder),
                "sockets": {"directory": str(sockets)},
                "host": {"id": "eu-1.$(NODE_NAME)", "machineIdFile": str(folder / "no-machine-id")},
                "hostNetwork": True,
                "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["kafka-1.example.net"]}],
                "web": {"port": port},
                "config": {
                    "otlp": {"endpoint": metrics.otlp.replace(ADDRESS, "$(HOST_IP)"), "interval": "1s"}
                },
            }
        )

        def in_prometheus() -> bool:
            return {each["metric"].get("host_id") for each in metrics.query("target_info")} == {"eu-1.node-1"}

        released.wait(in_prometheus, "the node's id in Prometheus")
        assert released.pod["status"]["podIP"] == ADDRESS
        released.wait(lambda: listens(port, "127.0.0.1"), "the port")
        assert not listens(port, ADDRESS)  # no NetworkPolicy applies there
        names = Path(f"/proc/{released.pid}/root/etc/hosts").read_text()
        assert "192.0.2.7\tkafka-1.example.net" in names
        released.wait(lambda: released.ready, "ready")
        assert released.restarts == 0


def test_the_charts_constraints_on_openshift_admit_only_its_own_pods(
    node: Node, released: Release, folder: Path
) -> None:
    sockets = make_directory(folder / "run" / "vm", AGENTS_USER)
    values = {**on_this_machine(folder), "sockets": {"directory": str(sockets)}}
    template = helm.one(helm.render_with(values), "DaemonSet")["spec"]["template"]["spec"]
    del template["priorityClassName"]

    def refusal(**changed: object) -> str:
        pod = {**template, **changed}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        words = ("create", "--dry-run=server", "--filename=-", "--namespace", released.namespace)
        try:
            node.kubectl(*words, stdin=json.dumps(pod))
        except RuntimeError as error:
            return str(error)
        return ""

    with openshift(node, released.namespace), qemu.idle(sockets, "vm", command=as_user(AGENTS_USER)):
        released.wait(lambda: RESTRICTED in refusal(serviceAccountName="default"), "the policy's refusal")

        constraints = {"openshift": {"securityContextConstraints": {"create": True}}}
        released.install({**values, **constraints})

        released.wait(lambda: released.states().get("vm.qmp", ("",))[0] == "waiting", "the VM's state")
        assert "1 of 1 agents are ready" in released.helm("test", "barograph", "--logs")
        assert refusal() == ""
        assert RESTRICTED in refusal(serviceAccountName="default")
        released.wait(lambda: CHARTS in refusal(hostNetwork=True), "the refusal of a host network")
        released.end()
