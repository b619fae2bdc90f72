"""Tests of the translation of what libvirt reports into QEMU's terms."""

import pytest

from agent.contract.decode import decode_guest_stats
from agent.core.reading import Reading
from agent.libvirt import qmp_terms
from agent.libvirt.qmp_terms import LabelSources, MetadataLabel, checked_path

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


def device(model: str, kib: int, *, current_kib: int | None = None) -> str:
    current = "" if current_kib is None else f"<current unit='KiB'>{current_kib}</current>"
    return f"<memory model='{model}'><target><size unit='KiB'>{kib}</size>{current}</target></memory>"


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


def test_a_busy_domain_has_no_answer_and_one_without_updates_no_statistics() -> None:
    assert qmp_terms.guest_stats({"balloon.current": 1, "balloon.maximum": 1}) is None
    assert qmp_terms.guest_stats({"balloon.last-update": 0}) == {"last-update": 0, "stats": {}}


def test_a_value_that_is_not_an_integer_is_refused_by_the_decoder() -> None:
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


def test_a_definition_contains_the_balloon_its_period_and_its_size() -> None:
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


def test_novas_labels_are_the_names_of_the_instance_and_its_project() -> None:
    found = qmp_terms.parse_definition(xml("instance-0000002a", NOVA))

    assert found.labels == {"nova_instance_name": "web & co", "nova_project_name": "shop"}


def test_kubevirts_labels_are_parts_of_the_domains_name() -> None:
    found = qmp_terms.parse_definition(xml("shop_web_3", KUBEVIRT))

    assert found.labels == {"kubevirt_namespace": "shop", "kubevirt_vmi_name": "web_3"}
    assert qmp_terms.parse_definition(xml("shop_web")).labels == {}


NOVA_URI = "http://openstack.org/xmlns/libvirt/nova/1.1"


@pytest.mark.parametrize(
    ("uri", "path", "value"),
    [
        (NOVA_URI, "instance/flavor/@name", "m1.tiny"),
        (NOVA_URI, "instance/owner/project/@uuid", "0f3e"),
        (NOVA_URI, "instance/owner/project", "shop"),
        (NOVA_URI, "instance/flavor/memory", "128"),
        (NOVA_URI, "instance/flavor", None),  # no text of its own
        (NOVA_URI, "instance/flavor/@id", None),
        (NOVA_URI, "flavor/@name", None),
        ("urn:other", "instance/flavor/@name", None),
    ],
)
def test_a_label_is_any_element_or_attribute_of_the_metadata(uri: str, path: str, value: str | None) -> None:
    metadata = (
        f"<n:instance xmlns:n='{NOVA_URI}'><n:name>web</n:name>"
        "<n:flavor name='m1.tiny'>\n  <n:memory> 128 </n:memory></n:flavor>"
        "<n:owner><n:project uuid='0f3e'>shop</n:project></n:owner></n:instance>"
    )
    sources = LabelSources((MetadataLabel("found", uri, checked_path(path)),))

    found = qmp_terms.parse_definition(xml("g", metadata), sources)

    assert found.labels.get("found") == value
    assert found.labels["nova_instance_name"] == "web"


def test_labels_come_from_a_domains_name_and_the_metadata_overrides_them() -> None:
    sources = LabelSources(
        (MetadataLabel("vmi", "http://kubevirt.io", "kubevirt/uid"),), "^(?P<namespace>[^_]+)_(?P<vmi>.+)$"
    )

    assert qmp_terms.parse_definition(xml("shop_web_3"), sources).labels == {
        "namespace": "shop",
        "vmi": "web_3",
    }
    with_uid = "<kubevirt xmlns='http://kubevirt.io'><uid>7</uid></kubevirt>"
    assert qmp_terms.parse_definition(xml("shop_web_3", with_uid), sources).labels["vmi"] == "7"
    assert qmp_terms.parse_definition(xml("web"), sources).labels == {}


def test_untrusted_metadata_is_bounded_and_expands_no_entity() -> None:
    sources = LabelSources((MetadataLabel("found", "urn:x", "a"),))
    deep = "<b>" * 50_000 + "</b>" * 50_000
    long = f"<a xmlns='urn:x'>{'x' * 100_000}</a>{deep}"

    assert qmp_terms.parse_definition(xml("g", long), sources).labels == {"found": "x" * 256}
    for bomb in ("<!DOCTYPE d [<!ENTITY a 'b'>]>", "<!DOCTYPE d SYSTEM 'file:///etc/passwd'>"):
        with pytest.raises(ValueError, match="document type"):
            qmp_terms.parse_definition(bomb + xml("g"), sources)
    with pytest.raises(ValueError, match="not a domain's XML"):
        qmp_terms.parse_definition(xml("g", "<a xmlns='urn:x'>&b;</a>"), sources)
    with pytest.raises(ValueError, match="more than"):
        qmp_terms.parse_definition(xml("g", "x" * (1 << 20)), sources)


@pytest.mark.parametrize("bad", ["", "<domain>", "<!DOCTYPE x [<!ENTITY a 'b'>]><domain/>"])
def test_an_invalid_definition_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="XML"):
        qmp_terms.parse_definition(bad)


@pytest.mark.parametrize(
    ("memory_kib", "devices", "base_mib", "plugged_mib"),
    [
        (1048576, "", 1024, 0),
        (1572864, device("dimm", 524288), 1024, 512),
        (3145728, device("virtio-mem", 2097152, current_kib=262144), 1024, 256),
        (1572864, device("nvdimm", 524288), 1024, 0),
        (524288, device("dimm", 524288), None, None),
        (1048576, "<memory model='dimm'><target/></memory>", None, None),
    ],
    ids=["plain", "dimm", "virtio-mem", "nvdimm", "nothing left", "no size"],
)
def test_the_memory_of_a_domain_is_its_base_and_what_is_plugged(
    memory_kib: int, devices: str, base_mib: int | None, plugged_mib: int | None
) -> None:
    definition = qmp_terms.parse_definition(
        xml(balloon=devices + BALLOON).replace(">1048576<", f">{memory_kib}<", 1)
    )

    sizes = [each and each << 20 for each in (base_mib, plugged_mib)]
    assert [definition.base_bytes, definition.plugged_bytes] == sizes


def test_deflate_on_oom_is_an_attribute_of_the_balloon() -> None:
    deflating = BALLOON.replace("'virtio'", "'virtio' autodeflate='on'")

    assert qmp_terms.parse_definition(xml(balloon=deflating)).deflate_on_oom is True
    assert qmp_terms.parse_definition(xml()).deflate_on_oom is False
    assert qmp_terms.parse_definition(xml(balloon="")).deflate_on_oom is None


@pytest.mark.parametrize(
    ("rss", "resident_bytes"), [(12345, 12345 << 10), (-1, None), (True, None), (2**50, None), (None, None)]
)
def test_the_resident_memory_is_in_bytes_or_not_known(rss: object, resident_bytes: int | None) -> None:
    assert qmp_terms.resident_bytes({"balloon.rss": rss}) == resident_bytes
