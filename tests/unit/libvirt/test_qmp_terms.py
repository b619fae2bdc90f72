"""What libvirt reports, in QEMU's terms."""

import pytest

from agent.contract.decode import decode_guest_stats
from agent.core.reading import Reading
from agent.libvirt import qmp_terms

XML = """<domain type='kvm' id='7'><name>{name}</name><uuid>5f0c1a52-7e0b-4a35-9d3f-2f4a0f9c5b11</uuid>
<metadata>{metadata}</metadata><memory unit='KiB'>1048576</memory>
<currentMemory unit='KiB'>524288</currentMemory>
<devices>{balloon}</devices></domain>"""
BALLOON = "<memballoon model='virtio'><stats period='10'/><alias name='balloon0'/></memballoon>"
NOVA = """<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
<nova:name>web &amp; co</nova:name><nova:owner><nova:user uuid="u">admin</nova:user>
<nova:project uuid="p">shop</nova:project></nova:owner></nova:instance>"""
KUBEVIRT = "<kubevirt xmlns='http://kubevirt.io'><uid>f4686d2c</uid></kubevirt>"


def xml(name: str = "g", metadata: str = "", balloon: str = BALLOON) -> str:
    return XML.format(name=name, metadata=metadata, balloon=balloon)


def test_sizes_are_bytes_and_counts_are_counts_under_qemus_names() -> None:
    stats: dict[str, object] = {
        "state.state": 1,
        "balloon.current": 131072,
        "balloon.maximum": 131072,
        "balloon.swap_in": 4,
        "balloon.major_fault": 5,
        "balloon.minor_fault": 6,
        "balloon.unused": 7,
        "balloon.available": 100,
        "balloon.usable": 8,
        "balloon.disk_caches": 9,
        "balloon.hugetlb_pgalloc": 10,
        "balloon.hugetlb_pgfail": 0,
        "balloon.rss": 12345,
        "balloon.last-update": 1795404146,
    }

    reading = decode_guest_stats(qmp_terms.guest_stats(stats))

    assert reading == Reading(
        1795404146,
        {
            "swap_in": 4096,
            "major_faults": 5,
            "minor_faults": 6,
            "free_memory": 7168,
            "total_memory": 102400,
            "available_memory": 8192,
            "disk_caches": 9216,
            "htlb_pgalloc": 10,
            "htlb_pgfail": 0,
        },
    )


def test_a_busy_domain_is_none_and_one_that_gave_nothing_yet_has_no_statistics() -> None:
    assert qmp_terms.guest_stats({"balloon.current": 1, "balloon.maximum": 1}) is None
    assert qmp_terms.guest_stats({"balloon.last-update": 0}) == {"last-update": 0, "stats": {}}


def test_what_is_no_integer_is_left_to_the_decoder_which_refuses_it() -> None:
    reading = decode_guest_stats(qmp_terms.guest_stats({"balloon.last-update": "soon"}))

    assert not isinstance(reading, Reading)


@pytest.mark.parametrize(
    ("state", "reason", "word"),
    [
        (1, 1, "running"),
        (2, 0, "running"),
        (3, 1, "paused"),
        (3, 2, "migration"),
        (3, 3, "save-vm"),
        (3, 5, "io-error"),
        (3, 99, "paused"),
        (4, 0, "shutdown"),
        (6, 0, "guest-panicked"),
        (7, 0, "suspended"),
        (42, 0, "unknown"),
    ],
)
def test_a_run_state_is_qemus_word_where_there_is_one(state: int, reason: int, word: str) -> None:
    assert qmp_terms.run_state(state, reason) == word
    assert qmp_terms.run_state_in({"state.state": state, "state.reason": reason}) == word


def test_a_definition_tells_the_balloon_its_period_and_its_size() -> None:
    found = qmp_terms.parse_definition(xml())

    assert (found.uuid, found.name) == ("5f0c1a52-7e0b-4a35-9d3f-2f4a0f9c5b11", "g")
    assert (found.balloon, found.period_s, found.actual_bytes) == ("balloon0", 10, 512 << 20)


def test_without_statistics_the_period_is_0_and_without_a_virtio_balloon_there_is_none() -> None:
    off = qmp_terms.parse_definition(xml(balloon="<memballoon model='virtio-non-transitional'/>"))
    none = qmp_terms.parse_definition(xml(balloon="<memballoon model='none'/>"))
    xen = qmp_terms.parse_definition(xml(balloon="<memballoon model='xen'/>"))

    assert (off.balloon, off.period_s) == ("virtio-non-transitional", 0)
    assert (none.balloon, none.period_s, none.actual_bytes) == (None, None, None)
    assert xen.balloon is None


def test_nova_says_the_instances_name_and_its_project() -> None:
    found = qmp_terms.parse_definition(xml("instance-0000002a", NOVA))

    assert found.labels == {"nova_instance_name": "web & co", "nova_project_name": "shop"}


def test_kubevirt_has_namespace_and_vmi_in_the_domains_name() -> None:
    found = qmp_terms.parse_definition(xml("shop_web_3", KUBEVIRT))

    assert found.labels == {"kubevirt_namespace": "shop", "kubevirt_vmi_name": "web_3"}
    assert qmp_terms.parse_definition(xml("shop_web")).labels == {}


@pytest.mark.parametrize("bad", ["", "<domain>", "<!DOCTYPE x [<!ENTITY a 'b'>]><domain/>"])
def test_what_is_no_definition_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="XML"):
        qmp_terms.parse_definition(bad)
