"""Tests that fill each bound in the table of docs/limits.md, and a check that the table has all of them."""

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

import anyio
import pytest

from agent.contract.decode import STATISTICS_MAX, BadAnswer, decode_guest_stats
from agent.core import epochs
from agent.core.address import MonitorPath
from agent.core.asking import CHECKS_AT_ONCE
from agent.core.epochs import History
from agent.core.event_queue import OVERFLOW, QUEUED_MAX, EventQueue
from agent.core.events import LinkEvent, MonitorEvent, MonitorEventKind
from agent.core.fleet import Room
from agent.core.reading import Access, Reading, SocketMark
from agent.discovery.scan import Scan, Seen
from agent.runtime.fleet import Fleet
from tests.unit.core.driving import Story
from tests.unit.runtime.test_vm import Emitted, around

TESTS = Path(__file__).parents[1]
LIMITS = TESTS.parent / "docs" / "limits.md"


def test_the_remembered_statistics_of_a_guest_are_bounded() -> None:
    history = History()
    for second in range(1, 100):
        names = {f"n{second}_{number}": 1 for number in range(STATISTICS_MAX)}
        seen = epochs.see(history, Reading(second, names), on_time=True, unix_ms=1, chance=second)
        history = seen.history

    assert len(history.given) < epochs.GIVEN_MAX + STATISTICS_MAX
    assert len(history.counters) <= len(epochs.CUMULATIVE)


def test_a_reading_with_too_many_statistics_is_refused() -> None:
    def answer(names: int) -> object:
        return {"last-update": 1, "stats": {f"stat-n{number}": 1 for number in range(names)}}

    assert not isinstance(decode_guest_stats(answer(STATISTICS_MAX)), BadAnswer)
    assert isinstance(decode_guest_stats(answer(STATISTICS_MAX + 1)), BadAnswer)


def test_queued_events_are_bounded_and_an_overflow_is_reported() -> None:
    queue = EventQueue()
    for number in range(10 * QUEUED_MAX):
        queue.put(MonitorEvent((MonitorEventKind.STOP, MonitorEventKind.RESUME)[number % 2]))

    taken: list[LinkEvent] = []
    while queue:
        taken.append(queue.take())
    assert len(taken) <= QUEUED_MAX
    assert taken[0] == OVERFLOW


def test_a_monitor_causes_no_more_states_than_checks() -> None:
    story = Story().start()
    story.update()
    story.pass_s(1)
    before = len(story.states)
    for number in range(30_000):
        story.pass_s(0.001)
        story.run_state = "paused" if number // 27 % 2 else "running"
        story.hear(MonitorEventKind.STOP if number % 2 else MonitorEventKind.RESUME)

    assert 30 <= len(story.states) - before <= CHECKS_AT_ONCE + 30 + 3


def _scan(*numbers: int) -> Scan:
    return Scan(
        tuple(
            Seen(MonitorPath(f"/nowhere/{n:03}.qmp"), SocketMark(1, n, 1), Access.HOLD, None, {})
            for n in numbers
        ),
        (),
    )


async def test_watched_vms_are_bounded_and_the_next_ones_have_their_turn() -> None:
    said = Emitted()
    fleet = Fleet("host", around(said), room=Room(vms=5), retired_max=3)
    watched: list[tuple[int, int]] = []
    first: list[Scan] = []

    async def scans() -> AsyncGenerator[Scan]:
        yield _scan(*range(20))
        await _until(lambda: len({each.address for each in said.states}) == 5)
        watched.append((fleet.watching, fleet.refused))
        yield _scan(*range(5, 20))  # those that were watched have gone
        await _until(lambda: len({each.address for each in said.states}) == 10)
        watched.append((fleet.watching, fleet.refused))
        group.cancel_scope.cancel()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(fleet.follow, scans(), first.append)

    assert watched == [(5, 15), (5, 10)]
    assert fleet.remembered == 3


async def _until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not holds():  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.005)


FILLED: Mapping[str, Sequence[str]] = {
    "a QMP line": [
        "unit/qmp/test_link_opening.py::test_each_invalid_opening_of_a_link_is_reported_with_its_fault"
    ],
    "QMP messages of one VM": ["unit/qmp/test_link.py::test_a_flood_ends_the_link"],
    "messages and reads of all monitors": [
        "unit/qmp/test_link.py::test_monitors_that_send_much_are_read_no_faster_than_the_shared_budget",
        "unit/qmp/test_link.py::test_single_bytes_use_the_shared_budget_and_the_link_continues",
        "unit/core/test_read_budget.py::test_monitors_are_read_at_the_rate_of_the_budget",
    ],
    "commands that QEMU has not read or answered": [
        "unit/qmp/test_link.py::test_a_peer_that_stops_reading_ends_the_link_before_commands_pile_up"
    ],
    "queued events": ["unit/test_bounds.py::test_queued_events_are_bounded_and_an_overflow_is_reported"],
    "a VM's name, a refusal's words": [
        "unit/qmp/test_client.py::test_the_text_of_a_refusal_is_bounded_and_printable",
        "unit/qmp/test_parsing.py::test_an_answer_of_the_documented_shape_is_parsed",
    ],
    "a balloon's id": ["unit/qmp/test_balloon.py::test_an_answer_of_another_shape_is_refused"],
    "looks at the kernel's list of sockets": [
        "unit/qmp/test_backlog.py::test_a_long_list_is_read_for_at_most_a_fifth_of_the_time"
    ],
    "links being opened": [
        "unit/qmp/test_link_opening.py::test_links_being_opened_are_bounded_and_open_ones_are_not_counted",
        "unit/qmp/test_link_opening.py::test_many_peers_of_one_owner_do_not_delay_those_of_another_owner",
    ],
    "events of a VM that arrive while another is processed": [
        "unit/runtime/test_vm.py::test_events_before_the_task_runs_are_queued_and_after_its_end_are_dropped"
    ],
    "alarms that were set again": [
        "unit/runtime/test_alarms.py::test_alarms_that_were_set_again_are_not_kept"
    ],
    "readings in flight": [
        "unit/runtime/test_alarms.py::test_readings_in_flight_are_bounded_and_each_reader_has_its_turn",
        "unit/runtime/test_alarms.py::test_vms_that_never_answer_do_not_delay_those_of_another_owner",
    ],
    "checks of one VM whose link is held": [
        "unit/core/test_stories.py::test_events_are_checked_within_50_ms_25_times_and_then_once_a_second"
    ],
    "state events that a monitor causes for one VM": [
        "unit/test_bounds.py::test_a_monitor_causes_no_more_states_than_checks"
    ],
    "readings of one VM": [
        "unit/core/test_pacing.py::test_a_new_sample_at_each_reading_does_not_make_readings_more_frequent"
    ],
    "statistics of a reading": ["unit/test_bounds.py::test_a_reading_with_too_many_statistics_is_refused"],
    "statistics remembered of a guest": [
        "unit/test_bounds.py::test_the_remembered_statistics_of_a_guest_are_bounded"
    ],
    "text in a record": ["unit/contract/test_encode.py::test_hostile_text_is_bounded_and_utf_8"],
    "sockets and directories of a scan": [
        "unit/discovery/test_scan.py::test_a_scan_is_bounded_and_reports_what_it_left_out",
        "unit/discovery/test_walk.py::test_a_walk_stops_at_its_bound",
        "unit/discovery/test_scan.py::test_a_user_who_fills_the_bound_hides_only_sockets_of_their_own",
    ],
    "time spent on scans while something changes all the time": [
        "integration/test_discovery.py::test_a_scan_that_takes_long_is_followed_by_a_longer_pause"
    ],
    "locks of monitors that were not looked for": [
        "unit/discovery/test_locks.py::test_the_locks_of_monitors_that_are_not_looked_for_are_bounded"
    ],
    "libvirts found by their sockets; domains of each": [
        "unit/libvirt/test_strangers.py::test_the_agent_connects_to_a_bounded_number_of_sockets",
        "unit/libvirt/test_strangers.py::test_an_owner_with_many_sockets_leaves_room_for_those_of_another",
        "unit/libvirt/test_strangers.py::test_a_found_libvirt_has_a_bounded_number_of_domains_and_the_others_are_reported",
    ],
    "sockets of monitors that sent descriptors, before Linux 6.16": [
        "unit/qmp/test_descriptors.py::test_sockets_being_closed_hold_a_bounded_number_of_threads",
        "unit/qmp/test_descriptors.py::test_bytes_with_descriptors_are_not_read_and_do_not_block",
    ],
    "a message of a found libvirt whose socket root does not own": [
        "unit/core/test_message_limit.py::test_messages_pass_up_to_a_refused_one_in_chunks_of_any_size",
        "unit/libvirt/test_relay.py::test_a_message_above_the_limit_is_reported_and_not_passed_on",
        "integration/test_hostile_libvirt.py::test_hostile_libvirts_take_little_memory_and_an_honest_one_is_observed",
    ],
    "calls to found libvirts that do not end, closed connections whose event loop or relay is kept busy": [
        "unit/libvirt/test_strangers.py::test_event_loops_that_are_kept_busy_hold_a_bounded_number_of_threads",
        "unit/libvirt/test_strangers.py::test_relays_that_are_kept_busy_hold_a_bounded_number_of_threads",
        "unit/libvirt/test_strangers.py::test_a_recreated_silent_socket_holds_a_bounded_number_of_threads",
        "unit/libvirt/test_strangers.py::test_silent_sockets_hold_a_bounded_number_of_threads_in_all",
    ],
    "events of one libvirt": ["unit/libvirt/test_strangers.py::test_a_flood_of_events_ends_the_connection"],
    "log lines for paths that one scan refuses": [
        "unit/runtime/test_fleet.py::test_refused_paths_have_a_bounded_number_of_log_lines"
    ],
    "entries of a directory, and of all of a scan": [
        "unit/discovery/test_scan.py::test_a_directory_with_many_entries_is_read_in_part",
        "unit/discovery/test_scan.py::test_the_entries_of_all_directories_are_bounded",
    ],
    "directories that `**` stands for": [
        "unit/discovery/test_scan.py::test_endless_directories_do_not_hide_sockets_elsewhere"
    ],
    "VMs observed: links, the board, claims": [
        "unit/test_bounds.py::test_watched_vms_are_bounded_and_the_next_ones_have_their_turn",
        "unit/core/test_fleet.py::test_the_newest_vms_of_the_owner_with_the_most_make_room_for_those_of_others",
    ],
    "ids of VMs with an owner": [
        "unit/core/test_claims.py::test_ids_with_an_owner_are_bounded_and_the_owner_with_the_most_loses_the_oldest"
    ],
    "VMs remembered after they have gone, in a run": [
        "unit/test_bounds.py::test_watched_vms_are_bounded_and_the_next_ones_have_their_turn"
    ],
    "rules of `vms.include` and of `vms.exclude`": [
        "unit/config/test_choice.py::test_more_rules_than_the_bound_are_refused"
    ],
    "the configuration file": [
        "unit/config/test_load.py::test_a_file_of_aliases_of_aliases_is_refused_before_it_is_expanded"
    ],
    "labels of one source": [
        "unit/core/test_labels.py::test_labels_are_bounded_in_number_and_differ_in_prometheus",
        "unit/core/test_labels.py::test_values_from_outside_are_truncated_and_made_printable",
    ],
    "a file of a process or a cgroup": [
        "unit/host/test_processes.py::test_a_file_of_a_process_is_read_up_to_its_bound"
    ],
    "cgroups between one and the root; the path of one": [
        "unit/host/test_cgroups.py::test_a_path_without_a_cgroup_below_the_root_has_no_figures"
    ],
    "directory entries in a search for pods": [
        "unit/host/test_cgroups.py::test_the_search_for_pods_is_bounded"
    ],
    "one look at the files of 20 VMs": [
        "unit/runtime/test_vm_memory.py::test_hanging_files_are_read_once_and_the_records_do_not_contain_them"
    ],
    "VMs remembered after they have gone, on disk": [
        "unit/spool/test_store.py::test_the_remembered_vms_are_bounded_and_the_least_recently_written_are_forgotten_first",
        "unit/spool/test_disk.py::test_the_memory_of_vms_is_bounded_while_the_disk_cannot_be_written",
    ],
    "records in memory of one sink": [
        "unit/spool/test_memory.py::test_a_full_buffer_drops_memory_records_then_samples_then_states"
    ],
    "records and dead letters while the disk cannot be written": [
        "unit/spool/test_disk.py::test_records_that_fit_nowhere_are_dropped_in_the_order_of_the_store",
        "unit/spool/test_disk.py::test_dead_letters_in_memory_are_dropped_oldest_first_before_states",
    ],
    "records on disk": [
        "unit/spool/test_store.py::test_a_full_file_drops_memory_samples_dead_letters_logs_then_states",
        "unit/spool/test_store.py::test_a_block_expires_with_its_newest_record_and_dead_letters_stay",
    ],
    "one record on disk": [
        "unit/spool/test_disk.py::test_a_record_too_large_for_a_block_is_dropped_and_counted"
    ],
    "a block of records": [
        "unit/spool/test_block.py::test_a_block_is_consecutive_and_bounded_in_records_bytes_and_time"
    ],
    "a block read from the file": [
        "unit/spool/test_block.py::test_a_block_from_a_hostile_file_expands_to_a_bounded_size"
    ],
    "committed records in memory of one queue": [
        "unit/spool/test_disk.py::test_committed_records_that_fit_in_memory_are_sent_from_memory"
    ],
    "batches to a topic: at rest; of a backlog": [
        "unit/core/test_delivery.py::test_batches_are_sent_at_intervals_and_after_a_pause_at_once",
        "unit/core/test_delivery.py::test_a_backlog_is_sent_at_its_rate",
    ],
    "a batch to Kafka, and the memory of it": [
        "unit/spool/test_store.py::test_a_read_returns_the_blocks_that_fit_and_at_least_one",
        "unit/spool/test_memory.py::test_a_batch_is_bounded_in_bytes_and_never_empty",
    ],
    "a library's warnings": ["unit/sinks/test_library_warnings.py::test_the_newest_warning_is_returned_once"],
    "encoded parts of OTLP messages": [
        "unit/sinks/test_otlp_points.py::test_the_parts_that_are_kept_encoded_are_bounded"
    ],
    "OTLP cycles in progress": [
        "integration/test_sinks_otlp.py::test_a_backend_without_answers_does_not_block_the_event_loop"
    ],
    "log records of one request over OTLP": [
        "integration/test_sinks_otlp_logs.py::test_a_batch_arrives_in_order_at_the_path_of_logs",
        "unit/spool/test_store.py::test_a_read_returns_the_blocks_that_fit_and_at_least_one",
    ],
    "exports of log records that hang": [
        "integration/test_sinks_otlp_logs.py::test_a_hanging_export_holds_one_thread_without_delaying_a_stop"
    ],
    "repetitions of all states at SIGUSR1": [
        "integration/test_announce.py::test_requests_that_come_too_early_become_one_delayed_request"
    ],
    "exporter threads abandoned to a resolver or a backend": [
        "integration/test_sinks_otlp.py::test_a_bounded_number_of_threads_is_abandoned_to_a_hanging_resolver"
    ],
    "an answer over HTTP, with its headers": [
        "unit/sinks/test_http_post.py::test_an_answer_without_end_is_read_up_to_the_limit_and_its_status_counts",
        "unit/sinks/test_http_post.py::test_endless_headers_are_refused",
        "unit/sinks/test_http_post.py::test_an_answer_that_trickles_ends_at_the_timeout",
    ],
    "encrypted bytes of an answer over HTTP, and of a handshake": [
        "unit/sinks/test_tls_stream.py::test_records_without_data_are_read_up_to_a_bound"
    ],
    "brokers of a Kafka cluster; partitions of a topic": [
        "unit/sinks/test_kafka_connections.py::test_unusable_metadata_of_a_cluster_is_refused_with_a_reason"
    ],
    "requests for metadata while a partition has no leader": [
        "unit/sinks/test_kafka_connections.py::test_a_partition_without_leader_does_not_make_the_agent_ask_all_the_time"
    ],
    "an answer over gRPC, with all its frames; its headers, unpacked": [
        "unit/sinks/test_grpc_call.py::test_endless_data_of_a_server_is_read_up_to_the_bound",
        "unit/sinks/test_grpc_call.py::test_a_call_ends_at_its_deadline",
        "integration/test_hostile_otlp.py::test_a_hostile_answer_of_a_backend_at_most_fails_a_cycle",
    ],
    "headers of a request": [
        "unit/sinks/test_otlp_headers.py::test_headers_of_several_sources_are_limited_together"
    ],
    "an answer of a broker": ["unit/sinks/test_kafka_reasons.py::test_only_metadata_may_be_large"],
    "a token; a client's secret": [
        "unit/sinks/test_kafka_oauth.py::test_the_error_names_the_problem_of_an_unusable_answer",
        "unit/sinks/test_kafka_oauth.py::test_a_file_without_a_usable_token_is_an_error",
        "unit/sinks/test_kafka_tokens.py::test_the_error_names_the_problem_of_an_unusable_secret_file",
    ],
    "an answer of a token endpoint": [
        "unit/sinks/test_kafka_tokens.py::test_an_answer_without_end_is_not_kept",
        "unit/sinks/test_kafka_tokens.py::test_an_endpoint_that_hangs_or_trickles_ends_at_the_timeout",
    ],
    "requests to a token endpoint": [
        "unit/sinks/test_kafka_tokens.py::test_a_token_is_requested_again_after_80_percent_of_its_lifetime",
        "unit/sinks/test_kafka_tokens.py::test_requests_to_a_failing_endpoint_become_less_frequent",
    ],
    "secrets learned while the agent runs, for masking": [
        "unit/test_redaction.py::test_added_secrets_are_bounded_and_the_given_ones_are_kept"
    ],
    "encrypted bytes of a broker without data": [
        "unit/sinks/test_kafka_tls.py::test_records_without_data_are_given_to_openssl_up_to_a_bound"
    ],
    "connections to brokers": [
        "unit/sinks/test_kafka_connections.py::test_a_cluster_with_a_broker_for_each_record_gets_few_connections"
    ],
    "`barograph topics`: all requests and answers": [
        "unit/test_cli_topics.py::test_all_attempts_together_have_a_deadline"
    ],
    "SCRAM iterations": [
        "unit/sinks/test_kafka_scram.py::test_an_iteration_count_out_of_bounds_is_refused_before_any_work"
    ],
    "names, files and logins of a Kafka sink that hang": [
        "integration/test_odd_kafka.py::test_a_hanging_resolver_is_reported_and_does_not_delay_the_stop"
    ],
    "the ledger's file": ["unit/spool/test_ledger.py::test_a_file_larger_than_the_bound_fails_the_start"],
    "OTLP memory of VMs": [
        "unit/sinks/test_otlp_points.py::test_a_vm_that_is_gone_is_remembered_for_a_while",
        "unit/sinks/test_otlp_points.py::test_the_vms_gone_longest_are_forgotten_first_above_the_bound",
    ],
    "unknown statistics that become series, per VM": [
        "unit/sinks/test_otlp_points.py::test_unknown_statistics_make_a_bounded_number_of_series_for_each_vm"
    ],
    "unknown statistics that become series, in all": [
        "unit/sinks/test_otlp_cycle.py::test_unknown_statistics_make_a_bounded_number_of_series_for_all_vms"
    ],
    "a file about the host's memory": [
        "unit/runtime/test_host_memory.py::test_a_broken_file_is_reported_and_the_other_files_are_read"
    ],
    "sizes of huge pages": [
        "unit/runtime/test_host_memory.py::test_the_sizes_of_huge_pages_and_of_files_are_bounded"
    ],
    "a write to standard output that hangs": [
        "unit/sinks/test_lines.py::test_a_write_that_hangs_holds_one_thread"
    ],
    "a read of these files that hangs": [
        "unit/runtime/test_host_memory.py::test_a_hanging_file_is_logged_once_and_the_record_has_the_rest"
    ],
    "an answer to `barograph status`": [
        "unit/test_cli_status.py::test_status_refuses_an_answer_above_the_bound",
        "unit/test_local_agent.py::test_an_answer_that_trickles_ends_at_the_timeout",
    ],
    "an answer to `barograph health`": [
        "unit/test_local_agent.py::test_an_answer_without_end_is_not_kept",
        "unit/test_local_agent.py::test_an_answer_that_trickles_ends_at_the_timeout",
    ],
    "an answer to `barograph doctor`": [
        "unit/test_cli_doctor.py::test_an_answer_of_the_agent_above_the_bound_fails_the_check"
    ],
    "the checks of one category of `barograph doctor`": [
        "unit/test_cli_doctor.py::test_the_checks_of_a_category_that_do_not_end_in_time_are_reported"
    ],
    "monitors that `barograph doctor` connects to": [
        "unit/test_cli_doctor.py::test_monitors_above_the_bound_are_counted"
    ],
    "brokers that `barograph doctor` connects to": [
        "unit/test_cli_doctor.py::test_the_doctor_does_not_connect_to_brokers_above_the_bound"
    ],
    "sockets of libvirt that `barograph doctor` connects to": [
        "unit/test_cli_doctor.py::test_sockets_of_libvirt_above_the_bound_are_left_out"
    ],
    "findings of one check of `barograph doctor`": [
        "unit/test_cli_doctor.py::test_many_findings_of_one_check_are_counted"
    ],
    "a spool that `barograph doctor` verifies": [
        "unit/test_cli_doctor.py::test_a_large_spool_is_not_verified_as_a_whole"
    ],
    "a file in the archive of `barograph doctor`": [
        "unit/test_cli_doctor_bundle.py::test_a_file_in_the_archive_is_cut_at_the_bound"
    ],
    "agents that `barograph status`, `top` and `tap` ask": [
        "unit/test_cli_status.py::test_too_many_hosts_are_refused"
    ],
    "VMs in the table of `barograph top`": ["unit/test_cli_top.py::test_the_table_is_bounded"],
    "records kept for `barograph tap`": [
        "unit/core/test_tap.py::test_records_are_bounded_in_number_and_size",
        "unit/core/test_tap.py::test_the_tap_closes_without_a_reader_and_counts_the_missed_records",
    ],
    "records of one answer to `barograph tap`": [
        "unit/core/test_tap.py::test_a_page_is_bounded_and_the_next_one_has_the_rest"
    ],
    "requests of `barograph tap` that wait": [
        "unit/web/test_tap.py::test_waiting_readers_are_bounded_and_an_answer_frees_a_place"
    ],
    "an answer that `barograph tap` reads": [
        "unit/test_cli_tap.py::test_tap_refuses_an_answer_above_the_bound"
    ],
    "changes of state that `barograph top` remembers": ["unit/test_cli_top.py::test_changes_are_bounded"],
    "parts of a path to open, with those that each `..` opens again": [
        "unit/discovery/test_links.py::test_a_path_with_too_many_steps_back_is_refused"
    ],
    "HTTP connections": [
        "unit/web/test_server.py::test_silent_connections_are_bounded_and_do_not_keep_other_clients_out",
        "unit/web/test_server.py::test_a_flood_closes_no_connection_that_is_being_answered",
        "unit/web/test_server.py::test_a_slow_client_is_disconnected_at_the_deadline",
    ],
    "an HTTP request": ["unit/web/test_server.py::test_a_request_larger_than_the_bound_is_refused"],
    "HTTP responses being built": ["unit/web/test_rendering.py::test_concurrent_requests_share_one_response"],
    "responses about one VM that are kept": [
        "unit/web/test_rendering.py::test_responses_by_key_are_bounded_and_built_one_at_a_time"
    ],
    "the history of a VM": [
        "unit/core/test_history.py::test_a_history_keeps_the_slots_of_half_an_hour",
        "unit/core/test_history.py::test_changes_and_vms_are_bounded",
    ],
    "VMs with a history": ["unit/core/test_history.py::test_changes_and_vms_are_bounded"],
    "readings of the queues": ["unit/core/test_outlook.py::test_readings_are_bounded"],
    "texts of a VM in the page's rows": [
        "unit/web/test_overview.py::test_hostile_text_is_bounded_and_sizes_are_exact_or_not_known"
    ],
}
"""The tests that fill each bound, by the name of its row."""


def _rows() -> list[str]:
    _, _, section = LIMITS.read_text().partition("## Bounds")
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [line.split("|")[1].strip() for line in lines]


def test_every_row_of_the_table_has_its_tests_and_no_row_is_missing() -> None:
    rows = _rows()

    assert len(rows) == len(set(rows)) >= 33
    assert set(rows) == set(FILLED)


@pytest.mark.parametrize("test", sorted({test for tests in FILLED.values() for test in tests}))
def test_the_tests_of_each_row_exist(test: str) -> None:
    file, _, name = test.partition("::")

    assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)
