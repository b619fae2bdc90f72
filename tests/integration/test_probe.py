"""Tests of `barograph probe`, which reads one VM once, by QMP or through libvirt, and changes nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.domains import path_of, watch, with_bindings
from tests.lab import qemu
from tests.lab.agent import agent, barograph
from tests.lab.libvirt import libvirtd
from tests.lab.qemu import Vm

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]


def probed(*words: str, status: int = 0, hint: str = "", env: Mapping[str, str] | None = None) -> Any:
    done = barograph("probe", *words, env=env)
    assert (done.returncode, done.stderr.strip()) == (status, hint)
    return json.loads(done.stdout)


OFF = "the sample may be old: polling is off; to enable it, use --enable-polling SECONDS"


def interval_s(vm: Vm) -> int:
    with vm.monitor() as truth:
        return truth.interval_s()


@pytest.mark.usefixtures("real_qemu")
def test_a_monitor_is_read_once_and_left_unchanged(folder: Path) -> None:
    with qemu.guest(folder, "g") as vm:
        off = probed(str(vm.qmp), hint=OFF)
        assert (off["state"]["state"], off["state"]["reason"]) == ("off", "polling_disabled")
        assert off["sample"]["origin"] == "unsolicited"  # sent by the driver when it was loaded
        assert interval_s(vm) == 0

        on = probed(str(vm.qmp), "--enable-polling", "2")
        assert on["state"]["vm"]["name"] == on["sample"]["vm"]["name"] == "g"
        assert on["sample"]["statistics"]["total_memory"] > 0
        assert interval_s(vm) == 2  # --enable-polling leaves it on

        again = probed(str(vm.qmp))
        assert again["sample"]["last_update"] >= on["sample"]["last_update"]

    hint = f"no sample: no listener on {vm.qmp}; start QEMU, or delete the file"
    gone = probed(str(vm.qmp), "--timeout", "1s", status=1, hint=hint)
    assert (gone["sample"], gone["state"]["reason"]) == (None, "refused")


def test_a_path_that_does_not_exist_is_named(folder: Path) -> None:
    socket = folder / "none.qmp"
    hint = f"no sample: {socket} does not exist; check the path, and that QEMU runs"

    assert probed(str(socket), status=1, hint=hint)["state"]["reason"] == "missing"


@pytest.mark.usefixtures("real_libvirt")
def test_a_domain_is_read_once_and_left_unchanged_even_next_to_an_agent(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g")
        off = probed(path_of(domain), hint=OFF, env=with_bindings())
        assert (off["state"]["reason"], off["state"]["via"]) == ("polling_disabled", "libvirt")

        on = probed(path_of(domain), "--enable-polling", "1", env=with_bindings())
        assert (on["sample"]["vm"]["uuid"], on["sample"]["via"]) == (domain.uuid, "libvirt")

        with agent(folder / "a", *watch(daemon), env=with_bindings()) as process:
            process.wait_for_log("libvirt")
            beside = probed(path_of(domain), env=with_bindings())
            assert beside["sample"]["polling_interval_s"] == 1

        unknown = f"{daemon.uri}#{domain.uuid[:-4]}beef"
        hint = f"no sample: {unknown} does not exist; check the path, and that QEMU runs"
        missing = probed(unknown, "--timeout", "2s", status=1, hint=hint, env=with_bindings())
        assert (missing["sample"], missing["state"]["state"]) == (None, "gone")
