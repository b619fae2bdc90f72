"""Generates docs/states.md from the code's states and reasons: `python -m tests.contract.states_page`."""

from collections.abc import Mapping
from pathlib import Path

from agent.core.reading import State
from agent.core.states import Reason
from agent.errors import LinkFault
from tests.contract.states_shown import table

PAGE = Path(__file__).parents[2] / "docs" / "states.md"

WHEN: Mapping[State, str] = {
    State.GONE: (
        "no link, and the socket is missing, or has no listener although QEMU answered before; or the VM is"
        " excluded"
    ),
    State.CONNECTING: (
        "found, no answer yet; also, where no other row applies: it answers, but its last update is old"
    ),
    State.DUPLICATE: "another monitor on this host already has this uuid",
    State.NO_GREETING: "the socket accepts the connection, but no QMP greeting comes",
    State.UNREACHABLE: (
        "permission denied, no listener, no timely answer, libvirt unreachable, or a peer that is not a VM,"
        " violated the protocol, flooded the link or closed it"
    ),
    State.NO_BALLOON: "QEMU has no virtio balloon",
    State.PAUSED: "the VM is not running; QEMU's polling timer is stopped too",
    State.OFF: "the polling interval is 0 and the agent does not set it",
    State.WAITING: "polling is enabled, and there has been no update since the guest booted",
    State.EMPTY: "updates arrive without any value",
    State.STALLED: "polling is enabled, and no update has arrived within `polling.stall_deadline`",
    State.REPORTING: "updates arrive",
}

REASONS: Mapping[str, tuple[State, str, str]] = {
    LinkFault.MISSING: (
        State.GONE,
        (
            "the socket does not exist, because QEMU quit or the directory was removed; or the agent now"
            " refuses the path of the socket; with libvirt: the domain is not running"
        ),
        "nothing; if QEMU still runs, see the log line `monitor refused` for this path",
    ),
    LinkFault.REFUSED: (
        State.GONE,
        "no listener on the socket, and QEMU answered there before",
        "nothing; you may delete the socket file",
    ),
    Reason.EXCLUDED: (
        State.GONE,
        "the configuration excludes the VM now (`vms.exclude`, `vms.include`); the VM may still be running",
        "nothing; to observe it again, change the rule that the detail names",
    ),
    Reason.FIRST_ATTEMPT: (
        State.CONNECTING,
        (
            "no answer yet; after `duplicate`: the agent observes this VM here now, and waits for its first"
            " update"
        ),
        "wait for a second, or for one polling interval",
    ),
    Reason.SETTLING: (
        State.CONNECTING,
        "it answers; its last update is old, and the next one is not due yet",
        "wait: within `polling.stall_deadline` it becomes `reporting` or `stalled`",
    ),
    Reason.UUID_IN_USE: (
        State.DUPLICATE,
        (
            "two monitors of one VM match the globs, the VM migrates within the host, or the uuid was cloned;"
            " the detail names the other path"
        ),
        "narrow the globs, or give the clone its own uuid; a migration needs nothing",
    ),
    LinkFault.SILENT: (
        State.NO_GREETING,
        "another client uses the monitor, QEMU hangs, or this is not QMP, but a guest agent or HTTP API",
        "give the agent its own monitor: a second `-qmp`; match only QMP monitors in the globs",
    ),
    LinkFault.BUSY: (
        State.NO_GREETING,
        "other clients are already queued for the monitor, or QEMU hangs",
        "give the agent its own monitor",
    ),
    LinkFault.NOT_QMP: (
        State.NO_GREETING,
        "the peer does not use QMP; the agent tries again when the socket is replaced",
        "match only QMP monitors in the globs",
    ),
    LinkFault.NOT_A_VM: (
        State.UNREACHABLE,
        (
            "the peer uses QMP but is not a VM, such as `qemu-storage-daemon`; the agent tries again when the"
            " socket is replaced"
        ),
        "match only the monitors of VMs in the globs",
    ),
    LinkFault.DENIED: (
        State.UNREACHABLE,
        "permission denied",
        "run the agent as the socket's owner, or in a group with write permission",
    ),
    LinkFault.HUNG_UP: (State.UNREACHABLE, "the peer closed the link repeatedly", "check QEMU's log"),
    LinkFault.NO_ANSWER: (
        State.UNREACHABLE,
        (
            "no answer within the deadline: QEMU is stopped or hangs; with libvirt, its daemon may be"
            " stopped, or another job may be running on the domain"
        ),
        (
            "check whether the QEMU process is stopped (SIGSTOP), waits for storage, or gets no CPU time;"
            " with libvirt, run `virsh domjobinfo`"
        ),
    ),
    LinkFault.FLOODING: (
        State.UNREACHABLE,
        "the peer sends more events than any VM does; the detail names the most frequent one",
        "find out which program created this socket",
    ),
    LinkFault.PROTOCOL: (
        State.UNREACHABLE,
        "the peer violated the protocol after its greeting",
        "find out which program created this socket",
    ),
    LinkFault.DISCONNECTED: (
        State.UNREACHABLE,
        "libvirt's daemon is unreachable or does not answer; its VMs may still be running",
        "check libvirtd or virtqemud, and the permissions of its socket",
    ),
    Reason.NO_DEVICE: (State.NO_BALLOON, "no virtio balloon", "add `-device virtio-balloon-pci`"),
    Reason.POLLING_DISABLED: (
        State.OFF,
        "the interval is 0, and the policy is `observe`",
        "set the interval, or let the agent set it: `polling.policy: fill`",
    ),
    Reason.SET_BACK: (
        State.OFF,
        "another program disabled polling; the agent will enable it once more",
        "find the program that disables polling, and stop it",
    ),
    Reason.CONTENDED: (
        State.OFF,
        "another program keeps disabling polling",
        "stop the program, then restart the agent; or exclude this VM (`vms.exclude`)",
    ),
    Reason.CANNOT_SET: (
        State.OFF,
        "QEMU refused the interval, or the change could not be recorded",
        "see the detail; it has QEMU's error, or the problem of the state directory",
    ),
    Reason.NO_UPDATE_YET: (
        State.WAITING,
        "`last-update` is 0",
        "wait until the guest has booted, or load virtio_balloon in it; some guests (FreeBSD) send none",
    ),
    Reason.REBOOTED: (
        State.WAITING,
        "the VM was reset, no update since",
        "wait for the boot; then as for `no_update_yet`",
    ),
    Reason.ALL_UNSET: (
        State.EMPTY,
        "the driver answers without any value",
        "Windows: start the balloon service (blnsvr)",
    ),
    Reason.NO_ADVANCE: (
        State.STALLED,
        "the guest stopped answering; QEMU sends no new request until the guest answers",
        (
            "check whether the guest hangs, its driver is unloaded, or it gets no CPU time; reloading the"
            " driver restarts the updates"
        ),
    ),
    Reason.ADVANCING: (State.REPORTING, "the agent receives updates", "nothing"),
}

REFUSED_BEFORE_AN_ANSWER = (
    State.UNREACHABLE,
    "no listener on the socket, and QEMU has not answered there yet",
    "start QEMU, or correct the glob",
)
"""`REFUSED` is the one reason of two states."""


def page() -> str:
    """Return the page, generated from the code."""
    lines = [
        "# States",
        "",
        "<!-- Generated by `python -m tests.contract.states_page`; a test compares it with the code. -->",
        "",
        "A VM is in one state at a time: the first one in the table below that applies. Every change is an",
        "event on the states topic, with its reason, and a heartbeat repeats the state. If no newer event",
        "has arrived by `next_heartbeat_by_ms`, no agent observes the VM, or its records do not arrive.",
        "",
        "```mermaid",
        "flowchart TD",
    ]
    states = list(State)
    for index, state in enumerate(states[:-1]):
        this, following = f"q{index}", f"q{index + 1}" if index + 2 < len(states) else "last"
        lines.append(f'  {this}{{"{WHEN[state].split(";")[0].replace("`", "")}?"}}')
        lines.append(f'  {this} -- yes --> s{index}(["{state.value}"])')
        lines.append(f"  {this} -- no --> {following}")
    lines += [f'  last(["{states[-1].value}"])', "```", "", "| state | when |", "| --- | --- |"]
    lines += [f"| `{state.value}` | {WHEN[state]} |" for state in State]
    lines += [
        "",
        "## Reasons",
        "",
        "The reason of `paused` is QEMU's run state: `paused`, `inmigrate`, `postmigrate`, `suspended`,",
        '`guest-panicked`, `shutdown` and others. A reader should treat an unknown reason as "other".',
        "libvirt reports `migration` for both `inmigrate` and `finish-migrate`, and has some reasons of its",
        "own: `dump`, `from-snapshot`, `postcopy`, `postcopy-failed`, `api-error`.",
        "",
        "| state | reason | what it means | what to do |",
        "| --- | --- | --- | --- |",
    ]
    rows = [*REASONS.items(), (LinkFault.REFUSED, REFUSED_BEFORE_AN_ANSWER)]
    ordered = sorted(rows, key=lambda each: states.index(each[1][0]))
    lines += [f"| `{state.value}` | `{reason}` | {what} | {do} |" for reason, (state, what, do) in ordered]
    return "\n".join([*lines, *table()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
