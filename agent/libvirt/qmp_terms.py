"""Translate what libvirt reports into QEMU's terms, so that a domain is handled like any other VM. Pure.

The numbers are libvirt's constants: they are its ABI, and this module must load without libvirt.
Sources: libvirt include/libvirt/libvirt-domain.h; docs/formatdomain.rst; src/libvirt-domain.c on
virConnectGetAllDomainStats.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from agent.core.events import BalloonChanged, MonitorEvent, MonitorEventKind
from agent.core.labels import bounded, matched
from agent.core.numbers import EXACT_MAX
from agent.core.ownership import INTERVAL_MAX_S
from agent.core.wording import printable

_RUNNING, _BLOCKED, _PAUSED, _SHUTTING_DOWN, SHUT_OFF, _CRASHED, _SUSPENDED = range(1, 8)

_STATES = {
    _RUNNING: "running",
    _BLOCKED: "running",  # on a CPU: the VM runs
    _SHUTTING_DOWN: "shutdown",
    SHUT_OFF: "shutoff",
    _CRASHED: "guest-panicked",
    _SUSPENDED: "suspended",
}

# QEMU's term where libvirt's means the same; else libvirt's own, as virsh shows it.
_PAUSED_FOR = {
    0: "paused",
    1: "paused",
    2: "migration",  # in or out: libvirt does not distinguish QEMU's inmigrate and finish-migrate
    3: "save-vm",
    4: "dump",
    5: "io-error",
    6: "watchdog",
    7: "from-snapshot",
    8: "shutdown",
    9: "save-vm",
    10: "guest-panicked",
    11: "prelaunch",
    12: "postcopy",
    13: "postcopy-failed",
    14: "api-error",
}

_ENDS = {
    0: "it was shut down",
    1: "it was destroyed",
    2: "QEMU crashed or was killed",
    3: "it has migrated to another host",
    4: "it was saved to disk",
    5: "it failed to start, or its QEMU process failed",
    6: "a snapshot of a stopped VM was loaded",
}

_NOVA = "{http://openstack.org/xmlns/libvirt/nova/}"
_KUBEVIRT = "{http://kubevirt.io}"

_KIB = 1024
_SIZES = {
    "balloon.swap_in": "stat-swap-in",
    "balloon.swap_out": "stat-swap-out",
    "balloon.unused": "stat-free-memory",
    "balloon.available": "stat-total-memory",
    "balloon.usable": "stat-available-memory",
    "balloon.disk_caches": "stat-disk-caches",
}
_COUNTS = {
    "balloon.major_fault": "stat-major-faults",
    "balloon.minor_fault": "stat-minor-faults",
    "balloon.hugetlb_pgalloc": "stat-htlb-pgalloc",
    "balloon.hugetlb_pgfail": "stat-htlb-pgfail",
}

XML_MAX_CHARACTERS = 1 << 20
"""Of a domain's definition; libvirt passes on up to 4 MiB."""

_TEXT_MAX_CHARACTERS = 256
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER = re.compile(r"[0-9]{1,15}")


def run_state(state: int, reason: int) -> str:
    """Return the run state, from virDomainGetState."""
    if state == _PAUSED:
        return _PAUSED_FOR.get(reason, "paused")
    return _STATES.get(state, "unknown")


def run_state_in(stats: Mapping[str, object]) -> str | None:
    """Return the run state in bulk statistics; `None`: they have none."""
    state, reason = stats.get("state.state"), stats.get("state.reason")
    return run_state(state, reason) if isinstance(state, int) and isinstance(reason, int) else None


def why_it_ended(detail: int) -> str:
    """Return the reason why a domain stopped, as text, from the detail of VIR_DOMAIN_EVENT_STOPPED."""
    return f"according to libvirt, {_ENDS.get(detail, 'it has stopped')}"


STARTED, STOPPED = 2, 5
_WOKEN_UP = 4  # the detail of STARTED that comes with a wake-up from PMSUSPENDED
_LIFECYCLE = {
    3: MonitorEvent(MonitorEventKind.STOP),
    4: MonitorEvent(MonitorEventKind.RESUME),
    6: MonitorEvent(MonitorEventKind.SHUTDOWN),
    7: MonitorEvent(MonitorEventKind.SUSPEND),
    8: MonitorEvent(MonitorEventKind.STOP),
}


def lifecycle(event: int, detail: int) -> MonitorEvent | None:
    """Return a lifecycle event of a running domain; `None`: it has started or stopped, or is unknown."""
    if event == STARTED and detail == _WOKEN_UP:
        return MonitorEvent(MonitorEventKind.WAKEUP)
    return _LIFECYCLE.get(event)


def balloon_changed(actual_kib: int) -> BalloonChanged | None:
    """Return the event BALLOON_CHANGE; `None`: the size makes no sense."""
    return BalloonChanged(actual_kib * _KIB) if 0 <= actual_kib * _KIB < 2**63 else None


def guest_stats(stats: Mapping[str, object]) -> dict[str, object] | None:
    """Return bulk statistics of one domain as QEMU's `guest-stats`; `None`: libvirt did not ask QEMU, since
    the domain was busy.

    libvirt rounds sizes down to KiB, so in bytes they are multiples of 1024. It does not pass on QEMU's
    statistics of OOM kills, stalls, scans and reclaims, nor unset ones.
    """
    last_update = stats.get("balloon.last-update")
    if last_update is None:
        return None
    found: dict[str, object] = {}
    for name, wire_name in _SIZES.items():
        if isinstance(value := stats.get(name), int):
            found[wire_name] = value * _KIB
    for name, wire_name in _COUNTS.items():
        if name in stats:
            found[wire_name] = stats[name]
    return {"last-update": last_update, "stats": found}


def resident_bytes(stats: Mapping[str, object]) -> int | None:
    """Return QEMU's resident memory in bulk statistics; `None`: they have none."""
    kib = stats.get("balloon.rss")
    return kib * _KIB if type(kib) is int and 0 <= kib * _KIB <= EXACT_MAX else None


@dataclass(frozen=True, slots=True)
class MetadataLabel:
    """A label and the element or attribute of `<metadata>` that it is read from; `path` as `checked_path`."""

    name: str
    uri: str  # the namespace of the elements
    path: str


@dataclass(frozen=True, slots=True)
class LabelSources:
    """Where labels of domains come from, besides what Nova and KubeVirt write."""

    metadata: tuple[MetadataLabel, ...] = ()
    name_pattern: str | None = None  # searched for in the domain's name; its named groups are labels


NO_SOURCES = LabelSources()

_METADATA_PATH = re.compile(r"[A-Za-z_][\w.-]*(/[A-Za-z_][\w.-]*)*(/@[A-Za-z_][\w.-]*)?")
_METADATA_PATH_MAX_CHARACTERS = 256


def checked_path(path: str) -> str:
    """Return a path into `<metadata>`: names of elements, and at last `@` with the name of an attribute.

    Raises:
        ValueError: it is none.
    """
    if len(path) > _METADATA_PATH_MAX_CHARACTERS or _METADATA_PATH.fullmatch(path) is None:
        raise ValueError(
            f"{printable(path, _METADATA_PATH_MAX_CHARACTERS)!r} is not a path of elements; write e.g. "
            "instance/flavor/@name, without a namespace prefix"
        )
    return path


@dataclass(frozen=True, slots=True)
class Definition:
    """What a running domain's XML holds."""

    uuid: str | None
    name: str | None
    balloon: str | None  # its alias; None: no virtio balloon
    period_s: int | None  # 0: polling is off; None: no balloon
    actual_bytes: int | None
    labels: Mapping[str, str]
    base_bytes: int | None = None
    plugged_bytes: int | None = None
    deflate_on_oom: bool | None = None


def parse_definition(xml: str, sources: LabelSources = NO_SOURCES) -> Definition:
    """Parse the XML of a running domain, with the labels of `sources`.

    Raises:
        ValueError: not a domain's XML, or too much of it. libvirt writes it itself, so entities are not
            expected or followed.
    """
    if len(xml) > XML_MAX_CHARACTERS:
        raise ValueError(f"a domain's XML has {len(xml):,} characters, more than {XML_MAX_CHARACTERS:,}")
    if "<!DOCTYPE" in xml:
        raise ValueError("a domain's XML must not have a document type")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"not a domain's XML: {error}") from error
    name = _text(root.findtext("name"))
    uuid = root.findtext("uuid")
    device = root.find("devices/memballoon")
    if device is not None and not (device.get("model") or "").startswith("virtio"):
        device = None
    base_bytes, plugged_bytes = _sizes(root)
    return Definition(
        uuid=None if uuid is None or _UUID.fullmatch(uuid) is None else uuid.lower(),
        name=name,
        balloon=None if device is None else _alias(device),
        period_s=None if device is None else _period_s(device),
        actual_bytes=None if device is None else _kib(root.find("currentMemory")),
        labels=_labels(root.find("metadata"), name, sources),
        base_bytes=base_bytes,
        plugged_bytes=plugged_bytes,
        deflate_on_oom=None if device is None else device.get("autodeflate") == "on",
    )


def _text(text: str | None) -> str | None:
    """Return text that any owner of a libvirt can choose, as the text of a QEMU is taken."""
    return None if not text else printable(text, _TEXT_MAX_CHARACTERS)


def _alias(device: ElementTree.Element) -> str:
    alias = device.find("alias")
    return _text(None if alias is None else alias.get("name")) or _text(device.get("model")) or "memballoon"


def _period_s(device: ElementTree.Element) -> int:
    stats = device.find("stats")
    period = "0" if stats is None else stats.get("period") or "0"
    if _NUMBER.fullmatch(period) is None or int(period) > INTERVAL_MAX_S:
        raise ValueError("a domain's XML has a period of statistics that is not a number of seconds")
    return int(period)


def _kib(element: ElementTree.Element | None) -> int | None:
    if element is None or element.get("unit", "KiB") != "KiB":
        return None
    size = (element.text or "").strip()
    return int(size) * _KIB if _NUMBER.fullmatch(size) and int(size) * _KIB < 2**63 else None


def _sizes(root: ElementTree.Element) -> tuple[int | None, int | None]:
    """Return base and plugged memory as QEMU counts them, in bytes.

    `memory` is the sum of the base and of all memory devices, of virtio-mem its full size.
    Source: libvirt docs/formatdomain.rst, "Memory devices"; src/conf/domain_conf.c,
    virDomainDefGetMemoryTotal.
    """
    base = _kib(root.find("memory"))
    plugged = 0
    for device in root.iterfind("devices/memory"):
        size = _kib(device.find("target/size"))
        if base is None or size is None:
            return None, None
        base -= size
        if device.get("model") == "virtio-mem":
            plugged += _kib(device.find("target/current")) or 0
        elif device.get("model") == "dimm":
            plugged += size
    return (None, None) if base is None or base <= 0 else (base, plugged)


def _labels(
    metadata: ElementTree.Element | None, name: str | None, sources: LabelSources
) -> Mapping[str, str]:
    """Return the labels that the platform which created the domain gave it, and those that are configured.

    Sources: nova virt/libvirt/config.py, LibvirtConfigGuestMetaNovaInstance; kubevirt
    pkg/virt-launcher/virtwrap/api/schema.go, KubeVirtMetadata, and DomainFromNamespaceName: a namespace has
    no "_".
    """
    labels: dict[str, str | None] = {}
    for element in metadata if metadata is not None else ():
        if element.tag.startswith(_NOVA[:-1]) and element.tag.endswith("}instance"):
            space = element.tag.removesuffix("instance")
            labels["nova_instance_name"] = element.findtext(f"{space}name")
            labels["nova_project_name"] = element.findtext(f"{space}owner/{space}project")
        elif element.tag == f"{_KUBEVIRT}kubevirt" and name is not None and "_" in name:
            labels["kubevirt_namespace"], _, labels["kubevirt_vmi_name"] = name.partition("_")
    if sources.name_pattern is not None and name is not None:
        labels |= matched(re.compile(sources.name_pattern), name)
    if metadata is not None:
        labels |= bounded({each.name: _value_in(metadata, each) for each in sources.metadata})
    return bounded(labels)


def _value_in(metadata: ElementTree.Element, source: MetadataLabel) -> str | None:
    path, _, attribute = source.path.partition("/@")
    steps = "/".join(f"{{{source.uri}}}{name}" for name in path.split("/"))
    element = metadata.find(steps)
    if element is None:
        return None
    return element.get(attribute) if attribute else element.text
