"""Tests of the cycle with a fake exporter, which gets a request and returns an Outcome."""

from collections.abc import Callable

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from agent.sinks.otlp_cycle import SLICE_VMS, Cycle, CycleEnd, Outcome, SliceReport, run_cycle
from agent.sinks.otlp_points import OTHERS_MAX, OTHERS_OF_A_VM_MAX, RefusedPoint, SentVm
from tests.unit.sinks.views import AGENT, SECOND_NS, T0_S, sample, view, vm

ACCEPTED = Outcome(accepted=True)
AWAY = Outcome(accepted=False, detail="away")
BAD_REQUEST = Outcome(accepted=False, refused=True, detail="HTTP 400")
NOW_NS = (T0_S + 100) * SECOND_NS


class Backend:
    """A fake exporter that chooses the outcome by the VMs in the request."""

    def __init__(self, answer: Callable[[list[str]], Outcome]) -> None:
        self._answer = answer
        self.requests: list[list[str]] = []

    def export(self, request: ExportMetricsServiceRequest) -> Outcome:
        resources = [each.resource.attributes for each in request.resource_metrics]
        vms = [each.value.string_value for of in resources for each in of if each.key == "qemu.vm.id"]
        self.requests.append(vms)
        return self._answer(vms)

    def shutdown(self) -> None:
        raise AssertionError("the cycle must not call this")


def cycle(vms: int) -> Cycle:
    return Cycle([view(sample(of=vm(f"vm-{n}"))) for n in range(vms)], {}, NOW_NS)


def run(
    vms: int, backend: Backend, pause: Callable[[], bool] = lambda: False
) -> tuple[list[SliceReport], CycleEnd]:
    *reports, end = run_cycle(cycle(vms), backend, AGENT, "points", pause)
    assert isinstance(end, CycleEnd)
    return [report for report in reports if isinstance(report, SliceReport)], end


def test_vms_are_sent_in_slices_with_a_pause_between() -> None:
    backend = Backend(lambda _: ACCEPTED)
    pauses: list[int] = []

    reports, end = run(2 * SLICE_VMS + 1, backend, lambda: bool(pauses.append(len(backend.requests))))

    assert [len(request) for request in backend.requests] == [SLICE_VMS, SLICE_VMS, 1]
    assert pauses == [1, 2]
    assert [len(report.settled) for report in reports] == [SLICE_VMS, SLICE_VMS, 1]
    assert end == CycleEnd(None, exports=3)


def test_at_shutdown_no_further_slice_is_sent() -> None:
    backend = Backend(lambda _: ACCEPTED)

    _, end = run(2 * SLICE_VMS, backend, lambda: True)

    assert len(backend.requests) == 1
    assert end.failure is None


def test_the_first_slice_that_fails_ends_the_cycle() -> None:
    backend = Backend(lambda vms: AWAY if f"vm-{SLICE_VMS}" in vms else ACCEPTED)

    reports, end = run(3 * SLICE_VMS, backend)

    assert len(backend.requests) == 2
    assert [len(report.settled) for report in reports] == [SLICE_VMS, 0]
    assert end.failure == AWAY


def test_a_refused_point_of_one_vm_does_not_affect_the_others() -> None:
    backend = Backend(lambda vms: BAD_REQUEST if "vm-3" in vms else ACCEPTED)

    reports, end = run(10, backend)

    assert backend.requests[1:] == [[f"vm-{n}"] for n in range(10)]
    assert end.failure is None
    assert reports[0].settled.keys() == {f"host-1/vm-{n}" for n in range(10)}
    refused_points = reports[0].points_refused[RefusedPoint.BACKEND]
    assert refused_points > 0
    assert reports[0].points_sent == 9 * refused_points


def test_a_refused_sample_is_settled_and_the_rest_of_its_vm_is_sent_next_time() -> None:
    refusing = Backend(lambda _: BAD_REQUEST)
    (report,), _ = run(1, refusing)

    *_, end = run_cycle(
        Cycle(cycle(1).views, report.settled, NOW_NS + 1), Backend(lambda _: ACCEPTED), AGENT, "points", bool
    )

    assert report.settled["host-1/vm-0"].sequence == 1
    assert report.settled["host-1/vm-0"].guest_time_ns == 0
    assert end == CycleEnd(None, exports=1)


def test_if_every_vm_is_refused_the_cycle_ends() -> None:
    backend = Backend(lambda _: BAD_REQUEST)

    reports, end = run(2 * SLICE_VMS, backend)

    assert len(backend.requests) == 1 + SLICE_VMS
    assert len(reports) == 1
    assert end.failure == BAD_REQUEST


def test_a_backend_that_fails_while_vms_are_sent_separately_ends_the_cycle() -> None:
    backend = Backend(lambda vms: BAD_REQUEST if len(vms) > 1 else AWAY if vms == ["vm-2"] else ACCEPTED)

    reports, end = run(5, backend)

    assert backend.requests[-1] == ["vm-2"]
    assert reports[0].settled.keys() == {"host-1/vm-0", "host-1/vm-1"}
    assert end.failure == AWAY


def test_points_rejected_by_a_partial_success_are_counted() -> None:
    (all_of_it,), _ = run(2, Backend(lambda _: ACCEPTED))

    (report,), end = run(2, Backend(lambda _: Outcome(accepted=True, rejected=3)))

    assert report.points_refused == {RefusedPoint.PARTIAL_SUCCESS: 3}
    assert report.points_sent == all_of_it.points_sent - 3
    assert end.failure is None


def test_without_vms_nothing_is_sent_and_the_backend_is_unknown() -> None:
    backend = Backend(lambda _: ACCEPTED)

    reports, end = run(0, backend)

    assert (backend.requests, reports, end) == ([], [], CycleEnd(None, exports=0))


def test_a_failed_slice_settles_nothing_so_that_the_newest_is_tried_again() -> None:
    (report,), _ = run(3, Backend(lambda _: AWAY))

    assert report == SliceReport()


def test_unknown_statistics_make_a_bounded_number_of_series_for_all_vms() -> None:
    invented = {f"n{number}": 1 for number in range(2 * OTHERS_OF_A_VM_MAX)}
    vms = OTHERS_MAX // OTHERS_OF_A_VM_MAX + 10
    views = [view(sample(of=vm(f"vm-{n}"), statistics=invented)) for n in range(vms)]
    sent: dict[str, SentVm] = {}
    left_out = 0
    for second in range(2):
        cycle_ = Cycle(views, sent, NOW_NS + second)
        for said in run_cycle(cycle_, Backend(lambda _: ACCEPTED), AGENT, "points", lambda: False):
            if isinstance(said, SliceReport):
                sent |= said.settled
                left_out += said.points_refused.get(RefusedPoint.TOO_MANY_NAMES, 0)

    assert sum(len(each.others) for each in sent.values()) == OTHERS_MAX
    assert left_out == vms * len(invented) - OTHERS_MAX


def after(vms: int) -> dict[str, SentVm]:
    reports, _ = run(vms, Backend(lambda _: ACCEPTED))
    return {key: each for report in reports for key, each in report.settled.items()}


def ended(
    sent: dict[str, SentVm], left: int, backend: Backend, after_s: int = 1
) -> tuple[dict[str, SentVm], CycleEnd]:
    """Run a cycle `after_s` after that of `after`, with only the first `left` VMs."""
    following = Cycle(cycle(left).views, sent, NOW_NS + after_s * SECOND_NS)
    *reports, end = run_cycle(following, backend, AGENT, "points", lambda: False)
    assert isinstance(end, CycleEnd)
    settled = [each.settled for each in reports if isinstance(each, SliceReport)]
    return sent | {key: each for one in settled for key, each in one.items()}, end


def test_vms_that_have_left_end_once_after_the_others() -> None:
    backend = Backend(lambda _: ACCEPTED)
    sent, _ = ended(after(2 * SLICE_VMS), SLICE_VMS - 1, backend)
    ended(sent, 0, last := Backend(lambda _: ACCEPTED), 2)

    assert [len(request) for request in backend.requests] == [SLICE_VMS, SLICE_VMS]
    assert backend.requests[0][-1] == f"vm-{SLICE_VMS - 1}"
    assert sum(len(request) for request in last.requests) == SLICE_VMS - 1


def test_an_end_that_was_not_accepted_is_sent_again_and_one_that_was_refused_is_not() -> None:
    sent = after(1)
    again, away = ended(sent, 0, Backend(lambda _: AWAY))
    over, _ = ended(again, 0, refusing := Backend(lambda _: BAD_REQUEST))
    _, end = ended(over, 0, last := Backend(lambda _: ACCEPTED), 2)

    assert away.failure == AWAY
    assert again == sent
    assert refusing.requests == [["vm-0"]]
    assert last.requests == []
    assert end.exports == 0
