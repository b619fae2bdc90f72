"""The part of QEMU's object tree that a client needs to find the balloon."""

from collections.abc import Callable
from dataclasses import dataclass

from simulator.qemu import Qemu, Refused

_CONTAINER = "container"
_PROXIES = {
    "pci": "virtio-balloon-pci",
    "pci-transitional": "virtio-balloon-pci-transitional",
    "pci-non-transitional": "virtio-balloon-pci-non-transitional",
    "ccw": "virtio-balloon-ccw",
}
_BOARDS = {"none": "none-machine", "mmio": "microvm-machine", "ccw": "s390-ccw-virtio-7.2-machine"}

DEVICE = "virtio-balloon-device"
INTERVAL = "guest-stats-polling-interval"
STATISTICS = "guest-stats"
OOM = "deflate-on-oom"

_ALIASED = (
    (OOM, "bool"),
    ("free-page-reporting", "bool"),
    (INTERVAL, "int"),
    (STATISTICS, "guest statistics"),
)


@dataclass(frozen=True, slots=True)
class Object:
    """An object of the tree."""

    type: str
    listing: tuple[tuple[str, str], ...] = ()  # name and type of each property, as in `qom-list`
    is_balloon: bool = False


def balloon_path(qemu: Qemu) -> str | None:
    """Return the path of the balloon; `None`: there is none."""
    if qemu.balloon is None:
        return None
    if qemu.balloon_id is None:
        return "/machine/peripheral-anon/device[0]"
    return f"/machine/peripheral/{qemu.balloon_id}"


def tree(qemu: Qemu) -> dict[str, Object]:
    """Return the objects by path. A real board has more, but no other balloon."""
    bus = qemu.spec.bus
    board = _BOARDS.get(bus, "pc-q35-7.2-machine")
    places = {"peripheral": Object(_CONTAINER), "peripheral-anon": Object(_CONTAINER)}
    found: dict[str, Object] = {}
    path = balloon_path(qemu)
    if path is not None:
        _, _, place, name = path.split("/")
        proxy = _PROXIES.get(bus)
        if proxy is None:
            found[path] = Object(DEVICE, _ALIASED, is_balloon=True)
        else:
            listing = (*_ALIASED, ("virtio-backend", f"child<{DEVICE}>"))
            found[path] = Object(proxy, listing, is_balloon=True)
            found[f"{path}/virtio-backend"] = Object(DEVICE, _ALIASED, is_balloon=True)
        places[place] = Object(_CONTAINER, ((name, f"child<{proxy or DEVICE}>"),))
    children = (*((place, "child<container>") for place in places), ("unattached", "child<container>"))
    return {
        "/": Object(_CONTAINER, (("machine", f"child<{board}>"), ("chardevs", "child<container>"))),
        "/chardevs": Object(_CONTAINER),
        "/machine": Object(board, children),
        **{f"/machine/{name}": place for name, place in places.items()},
        "/machine/unattached": Object(_CONTAINER, (("device[0]", "child<max-x86_64-cpu>"),)),
        "/machine/unattached/device[0]": Object("max-x86_64-cpu"),
        **found,
    }


def resolve(qemu: Qemu, path: str) -> tuple[str, Object]:
    """Return an object and its path, by the path or by an unambiguous end of it.

    Raises:
        Refused: no object matches, or more than one.
    """
    objects = tree(qemu)
    if path.startswith("/"):
        full = "/" + "/".join(part for part in path.split("/") if part)
        matches = [full] if full in objects else []
    else:
        matches = [each for each in objects if each.endswith("/" + path)]
    if len(matches) != 1:
        raise Refused(f"Device '{path}' not found", "DeviceNotFound")
    return matches[0], objects[matches[0]]


def list_properties(qemu: Qemu, path: str) -> list[dict[str, str]]:
    """Return the answer to `qom-list`."""
    found = resolve(qemu, path)[1]
    return [{"name": name, "type": kind} for name, kind in (("type", "string"), *found.listing)]


def get_json(qemu: Qemu, path: str, name: str) -> str:
    """Return the answer to `qom-get` as JSON."""
    if name == STATISTICS and path == balloon_path(
        qemu
    ):  # the most frequent request, so without building the tree
        return qemu.guest_stats_json()
    found = resolve(qemu, path)[1]
    if name == "type":
        return f'"{found.type}"'
    if found.is_balloon and qemu.balloon is not None:
        values: dict[str, Callable[[], str]] = {
            STATISTICS: qemu.guest_stats_json,
            INTERVAL: lambda interval_s=qemu.balloon.interval_s: str(interval_s),
            OOM: lambda: "true" if qemu.spec.deflate_on_oom else "false",
            "free-page-reporting": lambda: "false",
        }
        if name in values:
            return values[name]()
    raise Refused(f"Property '{found.type}.{name}' not found")


def require_interval(qemu: Qemu, path: str, name: str) -> None:
    """Check that `qom-set` may set a property; only the polling interval can be set.

    Raises:
        Refused: there is no such object or property, or the property is read-only.
    """
    found = resolve(qemu, path)[1]
    if name == "type":
        raise Refused(f"Property '{found.type}.type' is not writable")
    if not found.is_balloon or name not in dict(_ALIASED):
        raise Refused(f"Property '{found.type}.{name}' not found")
    if name == STATISTICS:
        raise Refused(f"Property '{DEVICE}.{STATISTICS}' is not writable")
    if name != INTERVAL:
        raise Refused(
            f"Attempt to set property '{name}' on device '{qemu.balloon_id}' (type '{DEVICE}') "
            "after it was realized"
        )
