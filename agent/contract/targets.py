"""The VMs that metrics describe, each once, and their attributes: the same over OTLP and for scrapes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.contract import metrics
from agent.contract.metrics import VM_LABEL_PREFIX, VM_PATH
from agent.contract.payloads import Agent
from agent.core.explanations import EXPLANATIONS, RUN_STATES
from agent.core.reading import NO_LABELS, State, VmId, VmIdentity, VmView


@dataclass(frozen=True, slots=True)
class Target:
    """One VM. `key` is its `service.instance.id`, unique among the targets."""

    key: str
    view: VmView
    vm: VmIdentity | None  # None: not known yet, or this is a second path to the same VM


def targets(views: Iterable[VmView], agent: Agent) -> list[Target]:
    """Return the VMs of `views`, each once.

    If several paths lead to the same VM, the one with a living link is used. A duplicate is shown as
    a path, since its values under the VM's id would contradict the others.
    """
    chosen: dict[VmId, VmView] = {}
    paths: list[VmView] = []
    for view in views:
        vm = view.state.vm
        if vm is None or view.state.state is State.DUPLICATE:
            paths.append(view)
        elif vm.id not in chosen or _liveness(view) > _liveness(chosen[vm.id]):
            chosen[vm.id] = view
    known = [Target(f"{agent.host_id}/{id}", view, view.state.vm) for id, view in chosen.items()]
    return known + [Target(f"{agent.host_id}/{utf8(str(view.address))}", view, None) for view in paths]


def identifying_attributes(target: Target, agent: Agent) -> dict[str, str]:
    """Return the attributes that identify the VM. Its labels are apart: `label_attributes`."""
    attributes = {metrics.HOST_ID: agent.host_id, metrics.HOST_NAME: utf8(agent.host_name)}
    if target.vm is None:
        return {**attributes, VM_PATH: utf8(str(target.view.address))}
    attributes[metrics.VM_ID] = target.vm.id
    if target.vm.name:
        attributes[metrics.VM_NAME] = utf8(target.vm.name)
    return attributes


def label_attributes(target: Target) -> dict[str, str]:
    """Return the labels of the VM as attributes."""
    labels = NO_LABELS if target.vm is None else target.vm.labels
    return {VM_LABEL_PREFIX + utf8(label): utf8(value) for label, value in labels.items()}


OTHER_REASON: Final = "other"

_MORE_RUN_STATES = frozenset(
    {
        *("colo", "debug", "preconfig", "restore-vm", "save-vm"),
        *("api-error", "dump", "from-snapshot", "migration", "postcopy", "postcopy-failed"),
    }
)
"""Run states without an explanation. QEMU qapi/run-state.json, RunState; agent/libvirt/qmp_terms.py."""


def reason_attributes(target: Target) -> dict[str, str]:
    """Return the state and its reason as attributes.

    A reason that is not known becomes `OTHER_REASON`: each one is a series, and a monitor can answer with
    any run state.
    """
    state, reason = target.view.state.state, target.view.state.reason
    is_run_state = state is State.PAUSED and (reason in RUN_STATES or reason in _MORE_RUN_STATES)
    known = is_run_state or (state, reason) in EXPLANATIONS
    return {metrics.VM_STATE: state.value, metrics.VM_REASON: reason if known else OTHER_REASON}


def utf8(text: str) -> str:
    """Return `text` as valid UTF-8: a path may hold any byte, and one invalid name would fail the request."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _liveness(view: VmView) -> tuple[bool, int]:
    return view.state.state is not State.GONE, view.state.since_ms
