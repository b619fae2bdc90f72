"""The part of QEMU's object tree that a client looking for the balloon can see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from simulator.qemu import Machine, Refused

_CONTAINER = "container"
_PROXIES = {
    "pci": "virtio-balloon-pci",
    "pci-transitional": "virtio-balloon-pci-transitional",
    "pci-non-transitional": "virtio-balloon-pci-non-transitional",
    "ccw": "virtio-balloon-ccw",
}
_MACHINES = {"none": "none-machine", "mmio": "microvm-machine", "ccw": "s390-ccw-virtio-7.2-machine"}

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
    """One object: its type, and what `qom-list` says of it: names with types."""

    type: str
    listing: tuple[tuple[str, str], ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict[str, str])  # property → JSON
    is_balloon: bool = False


def balloon_path(machine: Machine) -> str | None:
    """Return where the balloon is, if there is one."""
    if machine.balloon is None:
        return None
    if machine.balloon_id is None:
        return "/machine/peripheral-anon/device[0]"
    return f"/machine/peripheral/{machine.balloon_id}"


def tree(machine: Machine) -> dict[str, Object]:
    """Return every object by its path. A board has more; none of it is a balloon."""
    bus = machine.spec.bus
    board = _MACHINES.get(bus, "pc-q35-7.2-machine")
    places = {"peripheral": Object(_CONTAINER), "peripheral-anon": Object(_CONTAINER)}
    found: dict[str, Object] = {}
    path = balloon_path(machine)
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


def resolve(machine: Machine, path: str) -> tuple[str, Object]:
    """Return an object by its path, or by the end of one where that leads to a single object.

    Raises:
        Refused: there is none, or several.
    """
    objects = tree(machine)
    if path.startswith("/"):
        full = "/" + "/".join(part for part in path.split("/") if part)
        matches = [full] if full in objects else []
    else:
        matches = [each for each in objects if each.endswith("/" + path)]
    if len(matches) != 1:
        raise Refused(f"Device '{path}' not found", "DeviceNotFound")
    return matches[0], objects[matches[0]]


def list_properties(machine: Machine, path: str) -> list[dict[str, str]]:
    """`qom-list`."""
    found = resolve(machine, path)[1]
    return [{"name": name, "type": kind} for name, kind in (("type", "string"), *found.listing)]


def get_json(machine: Machine, path: str, name: str) -> str:
    """`qom-get`; JSON."""
    if name == STATISTICS and path == balloon_path(machine):  # what is asked all the time
        return machine.guest_stats_json()
    found = resolve(machine, path)[1]
    if name == "type":
        return f'"{found.type}"'
    if found.is_balloon and machine.balloon is not None:
        values: dict[str, Callable[[], str]] = {
            STATISTICS: machine.guest_stats_json,
            INTERVAL: lambda interval_s=machine.balloon.interval_s: str(interval_s),
            OOM: lambda: "true" if machine.spec.deflate_on_oom else "false",
            "free-page-reporting": lambda: "false",
        }
        if name in values:
            return values[name]()
    raise Refused(f"Property '{found.type}.{name}' not found")


def require_interval(machine: Machine, path: str, name: str) -> None:
    """Check that `qom-set` may set this: of what is simulated, the interval alone.

    Raises:
        Refused: no such object, no such property, or one that is read only.
    """
    found = resolve(machine, path)[1]
    if name == "type":
        raise Refused(f"Property '{found.type}.type' is not writable")
    if not found.is_balloon or name not in dict(_ALIASED):
        raise Refused(f"Property '{found.type}.{name}' not found")
    if name == STATISTICS:
        raise Refused(f"Property '{DEVICE}.{STATISTICS}' is not writable")
    if name != INTERVAL:
        raise Refused(
            f"Attempt to set property '{name}' on device '{machine.balloon_id}' (type '{DEVICE}') "
            "after it was realized"
        )
