"""What `barograph doctor` checks in a pod of Kubernetes."""

from collections.abc import Mapping

from agent.core.doctor.codes import Category, Check, Code

_POD = Category.KUBERNETES

POD_CHECKS: Mapping[Code, Check] = {
    Code.POD_NODE_NAME: Check(
        _POD,
        "the host has the name of the node",
        "`host.name` is the name of the pod, which changes with each pod",
        "set `BAROGRAPH_HOST__NAME` from `spec.nodeName`, as the chart does",
    ),
    Code.POD_MACHINE_ID: Check(
        _POD,
        "the machine-id of the node is mounted",
        "the file is part of the image, so all nodes have the same ID",
        "mount `/etc/machine-id` of the node with `hostPath`, and set `host.id_file`",
    ),
    Code.POD_MONITORS: Check(
        _POD,
        "the directories of the globs are mounted from the node",
        "the directory is not mounted, so no socket can appear in it",
        "mount it with `hostPath` ([kubernetes.md](kubernetes.md))",
    ),
    Code.POD_STATE: Check(
        _POD,
        "the state directory is mounted",
        "the directory is part of the container or of the pod, so its records are lost when the pod ends",
        "mount `/var/lib/barograph` of the node with `hostPath`",
    ),
    Code.POD_TOKEN: Check(
        _POD,
        "no token of a service account is mounted",
        "the agent does not use the Kubernetes API, so the token only helps an attacker",
        "set `automountServiceAccountToken: false`",
    ),
    Code.POD_PRIVILEGES: Check(
        _POD,
        "the agent has no privileges that it does not need",
        "the container has more capabilities than CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH",
        "drop all capabilities in the `securityContext`, and do not run it as `privileged`",
    ),
}
