"""Makes docs/states.md from the code's states and reasons: `python -m tests.contract.states_page`."""

from collections.abc import Mapping
from pathlib import Path

from agent.core.reading import State
from agent.core.states import Reason
from agent.errors import LinkFault
from tests.contract.states_shown import table

PAGE = Path(__file__).parents[2] / "docs" / "states.md"

WHEN: Mapping[State, str] = {
    State.GONE: "the link has ended and the socket is missing, or refuses although it has greeted us before",
    State.CONNECTING: "seen, no answer yet; or it answers, and whether it updates is not known yet",
    State.DUPLICATE: "another monitor on this host already has this uuid",
    State.NO_GREETING: "the socket accepts and stays silent, or speaks something else",
    State.UNREACHABLE: "denied, refused before any greeting, hung up, flooding, or silent past its deadline",
    State.NO_BALLOON: "QEMU has no virtio balloon",
    State.PAUSED: "the VM is not running; its timer stands still with it",
    State.OFF: "the interval is 0 and stays so",
    State.WAITING: "polling is on and nothing has come from this boot yet",
    State.EMPTY: "updates come, and every statistic is unset",
    State.STALLED: "polling is on and no update has come within the deadline",
    State.REPORTING: "updates come",
}

REASONS: Mapping[str, tuple[State, str, str]] = {
    LinkFault.MISSING: (
        State.GONE,
        "the socket is gone: QEMU quit, or its directory was removed; of libvirt, the domain runs no more",
        "nothing",
    ),
    LinkFault.REFUSED: (
        State.GONE,
        "nobody listens; where nobody ever did, the state is `unreachable`",
        "nothing; a socket file left behind may be removed",
    ),
    Reason.FIRST_ATTEMPT: (State.CONNECTING, "no answer yet", "wait a second"),
    Reason.SETTLING: (
        State.CONNECTING,
        "it answers; its last update is old, the next one not due yet",
        "wait for the deadline",
    ),
    Reason.UUID_IN_USE: (
        State.DUPLICATE,
        "two monitors of one VM in the globs, or a cloned uuid; the detail names the other path",
        "narrow the globs, or give the clone a uuid of its own",
    ),
    LinkFault.SILENT: (
        State.NO_GREETING,
        "held by another client, wedged, or not QMP: these look alike from outside",
        "give the agent a monitor of its own: a second `-qmp`",
    ),
    LinkFault.BUSY: (
        State.NO_GREETING,
        "other clients wait for it already, or QEMU is wedged",
        "give the agent a monitor of its own",
    ),
    LinkFault.NOT_QMP: (
        State.NO_GREETING,
        "it speaks something else; left alone until another socket takes its place",
        "name QMP monitors only",
    ),
    LinkFault.DENIED: (
        State.UNREACHABLE,
        "permission denied",
        "run the agent as the socket's owner, or in a group that may write",
    ),
    LinkFault.HUNG_UP: (State.UNREACHABLE, "the peer closed the link, again and again", "look at QEMU's log"),
    LinkFault.NO_ANSWER: (
        State.UNREACHABLE,
        "past its deadline: QEMU is stopped or wedged; with libvirt also its daemon, or its job is taken",
        "look at the QEMU process: SIGSTOP, storage, host load; with libvirt, `virsh domjobinfo`",
    ),
    LinkFault.FLOODING: (State.UNREACHABLE, "more events than any VM makes", "look at who made this QEMU"),
    LinkFault.PROTOCOL: (State.UNREACHABLE, "it broke the protocol after its greeting", "the same"),
    LinkFault.DISCONNECTED: (
        State.UNREACHABLE,
        "libvirt's daemon is away or does not answer; its VMs may go on",
        "look at libvirtd or virtqemud, and at who may use its socket",
    ),
    Reason.NO_DEVICE: (State.NO_BALLOON, "no virtio balloon", "add `-device virtio-balloon-pci`"),
    Reason.POLLING_DISABLED: (
        State.OFF,
        "interval 0, and the policy is `observe`",
        "set it, or let the agent: `polling.policy: fill`",
    ),
    Reason.SET_BACK: (State.OFF, "somebody switched polling off again", "find out who; ours comes once more"),
    Reason.CONTENDED: (State.OFF, "somebody keeps switching it off", "find out who, or exclude this VM"),
    Reason.CANNOT_SET: (
        State.OFF,
        "QEMU refused the interval, or it could not be written down",
        "read the detail: the state directory, or QEMU's words",
    ),
    Reason.NO_UPDATE_YET: (
        State.WAITING,
        "last-update is 0",
        "load virtio_balloon in the guest; FreeBSD and others have no statistics; or it still boots",
    ),
    Reason.REBOOTED: (State.WAITING, "a reset, and nothing since", "wait for the boot; then as above"),
    Reason.ALL_UNSET: (
        State.EMPTY,
        "the driver answers without one value",
        "Windows: start the balloon service (blnsvr)",
    ),
    Reason.NO_ADVANCE: (
        State.STALLED,
        "the guest stopped answering; QEMU does not ask again until it does",
        "is the guest hung, its driver unloaded, its CPU starved? A reload of the driver starts it again",
    ),
    Reason.ADVANCING: (State.REPORTING, "all is well", "nothing"),
}


def page() -> str:
    """Return the page as the code has it."""
    lines = [
        "# States",
        "",
        "<!-- Made by `python -m tests.contract.states_page`; a test compares it with the code. -->",
        "",
        "A VM is in one state at a time: the first of this list that holds. Every change is an event on the",
        "states topic with its reason; a heartbeat repeats it, and each event says until when it stands",
        "(`next_heartbeat_by_ms`): past that, nobody watches the VM any more.",
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
        "Of `paused`, the reason is QEMU's run state: `paused`, `inmigrate`, `postmigrate`, `suspended`,",
        '`guest-panicked`, `shutdown` and others. A reader treats a reason it does not know as "other".',
        "libvirt says `migration` for both `inmigrate` and `finish-migrate`, and has some words of its own:",
        "`dump`, `from-snapshot`, `postcopy`, `postcopy-failed`, `api-error`.",
        "",
        "| state | reason | what it means | what to do |",
        "| --- | --- | --- | --- |",
    ]
    ordered = sorted(REASONS.items(), key=lambda each: states.index(each[1][0]))
    lines += [f"| `{state.value}` | `{reason}` | {what} | {do} |" for reason, (state, what, do) in ordered]
    return "\n".join([*lines, *table()]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
