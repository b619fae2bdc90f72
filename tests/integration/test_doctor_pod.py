"""`barograph doctor` in real pods: a pod of the chart, and one without the chart's settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from tests.integration.pods import AGENTS_USER, Release, make_directory, on_this_machine
from tests.lab.kubernetes import Node

pytestmark = [pytest.mark.alone, pytest.mark.paired, pytest.mark.timeout(1200)]

CODES = ("node-name", "machine-id", "monitors", "state", "token", "privileges")
# If a check fails, the exit code is 1, which kubectl would report as its own failure.
RUN = "import subprocess, sys; subprocess.run(sys.argv[1:])"
WITH_AN_ID = f"open('/etc/machine-id', 'w').write('{32 * 'a'}'); {RUN}"  # as in an image that has the file
DOCTOR = ("barograph", "doctor", "-o", "json")


def levels(text: str) -> Mapping[str, str]:
    """Return the level of each check of the pod."""
    found: list[Mapping[str, Any]] = json.loads(text)["findings"]
    return {each["code"].removeprefix("pod-"): each["level"] for each in found if "pod-" in each["code"]}


def test_the_charts_pod_passes_each_check_and_a_bare_privileged_pod_fails_it(
    node: Node, released: Release, folder: Path
) -> None:
    sockets = make_directory(folder / "run" / "vm", AGENTS_USER)
    released.install(
        on_this_machine(folder),
        *("--set", f"sockets.directory={sockets}", "--set", "config.lines.enabled=true"),
    )
    here = ("--namespace", released.namespace)
    passed = levels(node.kubectl("exec", *here, released.name, "--", "python3", "-c", RUN, *DOCTOR))
    container = {
        "name": "agent",
        "image": f"localhost/barograph:{__version__}",
        "command": [
            "python3",
            "-c",
            WITH_AN_ID,
            *DOCTOR,
            "--monitor",
            "/srv/*.qmp",
        ],
        "env": [
            {"name": "BAROGRAPH_HOST__ID_FILE", "value": "/etc/machine-id"},
            {"name": "BAROGRAPH_HOST__NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "securityContext": {"privileged": True, "runAsUser": 0},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "namespace": released.namespace},
        "spec": {"containers": [container], "restartPolicy": "Never"},
    }
    node.kubectl("apply", "--filename=-", stdin=json.dumps(pod))
    released.kubectl(
        *("wait", "pod/bare", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=240s"), timeout_s=260
    )
    failed = levels(released.kubectl("logs", "bare"))

    assert passed == dict.fromkeys(CODES, "ok")
    assert failed == dict.fromkeys(CODES, "error") | {"token": "warning", "privileges": "warning"}
