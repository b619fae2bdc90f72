"""The tests that show each cause of each state: the source of the last table of docs/states.md."""

from agent.core.reading import State
from agent.core.states import Reason
from agent.errors import LinkFault

_GUESTS = "tests/integration/test_states_on_real_guests.py"
_ENDS = "tests/integration/test_states_guest_ends.py"
_MOVES = "tests/integration/test_states_migration.py"
_SNAPSHOTS = "tests/integration/test_states_snapshots.py"
_DEVICES = "tests/integration/test_states_devices.py"
_SOCKETS = "tests/integration/test_states_sockets.py"
_NEIGHBOURS = "tests/integration/test_neighbours.py"
_QMP = "tests/integration/test_qmp.py"
_LIBVIRT = "tests/integration/test_libvirt_states.py"
_TROUBLES = "tests/integration/test_libvirt_troubles.py"
_STORIES = "tests/unit/core/test_stories.py"

SHOWN: tuple[tuple[State, str, str, str, str], ...] = (
    (
        State.GONE,
        LinkFault.MISSING,
        "the guest shut down, and QEMU quit",
        _ENDS,
        "test_a_guest_that_shuts_down_is_gone_with_its_qemu",
    ),
    (
        State.GONE,
        LinkFault.MISSING,
        "the guest panicked, and QEMU quit",
        _ENDS,
        "test_a_panic_that_ends_qemu_is_gone",
    ),
    (
        State.GONE,
        LinkFault.MISSING,
        "the socket was deleted, then QEMU killed",
        _SOCKETS,
        "test_a_deleted_socket_does_not_end_an_open_link_until_qemu_ends",
    ),
    (
        State.GONE,
        LinkFault.REFUSED,
        "QEMU was killed",
        _GUESTS,
        "test_a_killed_qemu_is_gone_and_a_new_one_on_its_path_is_a_new_epoch",
    ),
    (
        State.GONE,
        Reason.NOT_OBSERVED,
        "the limit of VMs is reached: VMs of the owner that has the most VMs make room for others",
        "tests/integration/test_descriptors.py",
        "test_600_monitors_under_300_descriptors",
    ),
    (
        State.GONE,
        Reason.EXCLUDED,
        "a reload excludes the VM",
        "tests/integration/test_choice.py",
        "test_a_reload_changes_the_choice_while_vms_come_and_go",
    ),
    (
        State.CONNECTING,
        Reason.FIRST_ATTEMPT,
        "just found",
        _GUESTS,
        "test_a_frozen_qemu_is_unreachable_within_its_deadline_and_back_when_thawed",
    ),
    (
        State.CONNECTING,
        Reason.SETTLING,
        "found with an old last update",
        _STORIES,
        "test_a_vm_whose_last_update_is_old_is_settling_until_its_deadline",
    ),
    (
        State.DUPLICATE,
        Reason.UUID_IN_USE,
        "two monitors of one VM",
        _GUESTS,
        "test_a_second_socket_of_one_vm_is_duplicate_and_names_the_first",
    ),
    (
        State.NO_GREETING,
        LinkFault.SILENT,
        "another client uses the monitor",
        _GUESTS,
        "test_a_monitor_held_by_another_client_is_no_greeting_and_left_to_that_client",
    ),
    (
        State.NO_GREETING,
        LinkFault.BUSY,
        "other clients are already waiting for it",
        _QMP,
        "test_a_full_queue_of_connections_is_reported_as_busy_at_once",
    ),
    (
        State.NO_GREETING,
        LinkFault.NOT_QMP,
        "the peer does not use QMP",
        _GUESTS,
        "test_a_socket_that_is_not_qmp_is_left_alone",
    ),
    (
        State.UNREACHABLE,
        LinkFault.NOT_A_VM,
        "a real `qemu-storage-daemon`",
        "tests/integration/test_qmp_peers.py",
        "test_a_storage_daemon_is_not_a_vm",
    ),
    (
        State.UNREACHABLE,
        LinkFault.DENIED,
        "permission denied, and later granted",
        _SOCKETS,
        "test_a_socket_without_write_permission_is_denied_until_it_is_granted",
    ),
    (
        State.UNREACHABLE,
        LinkFault.REFUSED,
        "a socket file without a listener yet",
        _SOCKETS,
        "test_a_socket_file_without_a_listener_is_unreachable_until_qemu_listens",
    ),
    (
        State.UNREACHABLE,
        LinkFault.HUNG_UP,
        "a peer that closes the link repeatedly",
        _STORIES,
        "test_a_peer_that_hangs_up_again_and_again_is_unreachable",
    ),
    (
        State.UNREACHABLE,
        LinkFault.NO_ANSWER,
        "the QEMU process is stopped (SIGSTOP)",
        _GUESTS,
        "test_a_frozen_qemu_is_unreachable_within_its_deadline_and_back_when_thawed",
    ),
    (
        State.UNREACHABLE,
        LinkFault.NO_ANSWER,
        "QEMU's main loop is blocked on a file",
        _SOCKETS,
        "test_a_qemu_wedged_in_its_main_loop_is_unreachable_and_back_when_it_goes_on",
    ),
    (
        State.UNREACHABLE,
        LinkFault.NO_ANSWER,
        "QEMU listens, but its main loop is not running yet",
        _SOCKETS,
        "test_a_qemu_wedged_as_it_starts_is_unreachable_until_it_goes_on",
    ),
    (
        State.UNREACHABLE,
        LinkFault.FLOODING,
        "a peer that floods events",
        _NEIGHBOURS,
        "test_bad_neighbors_do_not_hide_a_healthy_vm",
    ),
    (
        State.UNREACHABLE,
        LinkFault.PROTOCOL,
        "a peer that sends invalid answers",
        "tests/unit/qmp/test_link_opening.py",
        "test_each_invalid_opening_of_a_link_is_reported_with_its_fault",
    ),
    (
        State.NO_BALLOON,
        Reason.NO_DEVICE,
        "`-machine none`",
        _GUESTS,
        "test_a_vm_without_a_balloon_device_has_the_state_no_balloon",
    ),
    (
        State.NO_BALLOON,
        Reason.NO_DEVICE,
        "the balloon was unplugged",
        _DEVICES,
        "test_the_agent_sets_the_interval_of_a_balloon_that_was_plugged_in_again",
    ),
    (
        State.PAUSED,
        "paused",
        "`stop`, longer than the stall deadline",
        _GUESTS,
        "test_stop_and_cont_are_paused_and_not_stalled",
    ),
    (
        State.PAUSED,
        "inmigrate",
        "waiting for an incoming migration",
        _MOVES,
        "test_each_update_of_a_migrated_vm_is_emitted_once_by_one_of_the_two_hosts",
    ),
    (
        State.PAUSED,
        "postmigrate",
        "migrated to another host",
        _MOVES,
        "test_each_update_of_a_migrated_vm_is_emitted_once_by_one_of_the_two_hosts",
    ),
    (
        State.PAUSED,
        "suspended",
        "suspended to memory",
        _ENDS,
        "test_a_suspended_guest_is_paused_and_not_stalled",
    ),
    (
        State.PAUSED,
        "guest-panicked",
        "panicked, with a panic device",
        _ENDS,
        "test_a_panic_reported_by_a_panic_device_is_paused_guest_panicked",
    ),
    (
        State.PAUSED,
        "shutdown",
        "shut down under `-no-shutdown`",
        _ENDS,
        "test_a_guest_that_shuts_down_under_no_shutdown_is_paused_until_it_boots_again",
    ),
    (
        State.OFF,
        Reason.POLLING_DISABLED,
        "polling disabled under `observe`",
        _GUESTS,
        "test_polling_off_under_observe_is_off_and_old_values_are_not_emitted_again",
    ),
    (
        State.OFF,
        Reason.SET_BACK,
        "another program set the interval to 0",
        _STORIES,
        "test_an_interval_set_back_is_set_once_more_and_then_contended",
    ),
    (
        State.OFF,
        Reason.CONTENDED,
        "another program set the interval to 0 a second time",
        _STORIES,
        "test_an_interval_set_back_is_set_once_more_and_then_contended",
    ),
    (
        State.OFF,
        Reason.CANNOT_SET,
        "the change could not be recorded",
        _STORIES,
        "test_an_interval_that_cannot_be_remembered_is_not_set",
    ),
    (
        State.WAITING,
        Reason.NO_UPDATE_YET,
        "no driver in the guest",
        _GUESTS,
        "test_a_guest_without_the_driver_is_waiting",
    ),
    (
        State.WAITING,
        Reason.REBOOTED,
        "the guest rebooted",
        _GUESTS,
        "test_a_rebooted_guest_is_waiting_in_a_new_epoch_and_never_stalled",
    ),
    (
        State.WAITING,
        Reason.REBOOTED,
        "the VM was reset through QEMU",
        _ENDS,
        "test_a_hung_guest_is_stalled_until_it_is_reset",
    ),
    (
        State.EMPTY,
        Reason.ALL_UNSET,
        "Windows without its balloon service",
        _STORIES,
        "test_a_vm_with_every_statistic_unset_is_empty_and_its_sample_has_none",
    ),
    (
        State.STALLED,
        Reason.NO_ADVANCE,
        "the driver was unloaded",
        _GUESTS,
        "test_a_vm_is_stalled_within_its_deadline_until_the_unloaded_driver_is_loaded",
    ),
    (
        State.STALLED,
        Reason.NO_ADVANCE,
        "panicked, without a panic device",
        _ENDS,
        "test_a_panic_without_a_panic_device_is_stalled",
    ),
    (
        State.STALLED,
        Reason.NO_ADVANCE,
        "the guest hangs",
        _ENDS,
        "test_a_hung_guest_is_stalled_until_it_is_reset",
    ),
    (
        State.REPORTING,
        Reason.ADVANCING,
        "a migration that fails: nothing changes",
        _MOVES,
        "test_a_migration_that_fails_changes_nothing",
    ),
    (
        State.REPORTING,
        Reason.ADVANCING,
        "a migration that is canceled: nothing changes",
        _MOVES,
        "test_a_migration_that_is_canceled_changes_nothing",
    ),
    (
        State.REPORTING,
        Reason.ADVANCING,
        "a snapshot was loaded: a new epoch",
        _SNAPSHOTS,
        "test_a_loaded_snapshot_begins_a_new_epoch_only_where_counters_fall",
    ),
    (
        State.REPORTING,
        Reason.ADVANCING,
        "QEMU was replaced within a second: a new epoch",
        _SOCKETS,
        "test_a_qemu_replaced_on_its_path_within_a_second_is_another_epoch",
    ),
    (
        State.REPORTING,
        Reason.ADVANCING,
        "a second balloon, which QEMU refuses",
        _DEVICES,
        "test_qemu_refuses_a_second_balloon_and_the_first_continues",
    ),
    (
        State.REPORTING,
        Reason.ADVANCING,
        "memory was plugged in",
        _DEVICES,
        "test_plugged_in_memory_adds_to_the_balloons_size_and_samples_continue",
    ),
    (
        State.UNREACHABLE,
        LinkFault.DISCONNECTED,
        "libvirtd was killed, its QEMUs continue",
        _TROUBLES,
        "test_a_killed_libvirtd_is_unreachable_until_it_is_started_again",
    ),
    (
        State.UNREACHABLE,
        Reason.NO_ANSWER,
        "with libvirt: one QEMU of several is stopped",
        _TROUBLES,
        "test_a_stopped_qemu_is_unreachable_and_does_not_affect_the_others",
    ),
    (
        State.UNREACHABLE,
        Reason.NO_ANSWER,
        "libvirtd is stopped (SIGSTOP)",
        _TROUBLES,
        "test_a_stopped_libvirtd_is_unreachable_until_it_continues",
    ),
    (
        State.GONE,
        LinkFault.MISSING,
        "with libvirt: destroyed, or its QEMU killed",
        _LIBVIRT,
        "test_the_states_of_a_domain_follow_its_driver_its_pauses_and_its_end",
    ),
    (
        State.GONE,
        LinkFault.MISSING,
        "with libvirt: saved to disk",
        _LIBVIRT,
        "test_a_domain_is_gone_while_it_is_saved_and_reports_after_it_is_undefined",
    ),
    (
        State.GONE,
        LinkFault.MISSING,
        "with libvirt: migrated to another host",
        _LIBVIRT,
        "test_a_migrated_domain_is_gone_and_a_canceled_migration_changes_nothing",
    ),
    (
        State.GONE,
        LinkFault.MISSING,
        "a KubeVirt pod was deleted together with its libvirt",
        _TROUBLES,
        "test_pods_come_and_go_with_their_libvirts",
    ),
    (
        State.NO_BALLOON,
        Reason.NO_DEVICE,
        "a domain with `<memballoon model='none'/>`",
        _LIBVIRT,
        "test_a_domain_without_a_balloon_is_no_balloon_and_a_panicked_one_is_paused",
    ),
    (
        State.DUPLICATE,
        Reason.UUID_IN_USE,
        "a domain and a second monitor of its QEMU",
        _LIBVIRT,
        "test_a_second_link_to_a_vm_is_a_duplicate",
    ),
    (
        State.OFF,
        Reason.CONTENDED,
        "virsh sets the period to 0 repeatedly",
        _LIBVIRT,
        "test_a_changed_period_is_followed_and_a_period_set_to_0_twice_is_contended",
    ),
)
"""State, reason, cause, the test's file, and the test's name."""


def table() -> list[str]:
    """Return the lines of the section, in the order of the states."""
    states = list(State)
    lines = [
        "",
        "## Tests",
        "",
        "The tests in `tests/integration` run a real Linux guest in a real QEMU: version 7.2 of Debian 12,",
        "and also version 10 where the result may depend on the version. The other tests need no QEMU.",
        "An *epoch* is a series of samples with comparable counters",
        "([contract.md](contract.md#the-rules), rule 4).",
        "",
        "| state | reason | cause | test |",
        "| --- | --- | --- | --- |",
    ]
    for state, reason, cause, file, test in sorted(SHOWN, key=lambda each: states.index(each[0])):
        lines.append(f"| `{state.value}` | `{reason}` | {cause} | [{test}](../{file}) |")
    return lines
