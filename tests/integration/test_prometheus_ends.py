"""Test that the series of a VM in a real Prometheus fed by OTLP end with the VM, well before 300 s."""

from pathlib import Path

from tests.integration.test_web import wait_until
from tests.lab.agent import agent
from tests.lab.prometheus import Prometheus
from tests.lab.sim import simulated

WITHIN_S = 150.0  # a cycle, on a busy machine; Prometheus forgets a series after 300 s


def test_the_series_of_a_vm_end_with_it_and_those_of_the_others_do_not(
    folder: Path, own_prometheus: Prometheus
) -> None:
    def vms(metric: str) -> list[str]:
        found = own_prometheus.query(f"count by (qemu_vm_name) ({metric})")
        return sorted(each["metric"]["qemu_vm_name"] for each in found)

    env = {"BAROGRAPH_OTLP__INTERVAL": "1s", "BAROGRAPH_MEMORY__INTERVAL": "1s"}
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--otlp", own_prometheus.otlp)
    with simulated(folder, vms=2, preset=1) as hypervisor, agent(folder, *words, env=env) as process:
        ending, staying = hypervisor.vms
        both = sorted(vm.qmp.stem for vm in hypervisor.vms)
        wait_until(lambda: vms("qemu_vm_guest_memory_free_bytes") == both, "values of both VMs")
        ending.kill()  # its socket stays, so it is shown as gone
        guest = '{__name__=~"qemu_vm_guest_.+"}'
        wait_until(lambda: vms(guest) == [staying.qmp.stem], "the end of its values", WITHIN_S)
        gone = own_prometheus.query('qemu_vm_state{qemu_vm_state="gone"} == 1')
        ending.qmp.unlink()
        wait_until(
            lambda: vms('{__name__=~"qemu_vm_.+"}') == [staying.qmp.stem], "the end of its state", WITHIN_S
        )
        assert process.stop() == 0

    assert [each["metric"]["qemu_vm_name"] for each in gone] == [ending.qmp.stem]
