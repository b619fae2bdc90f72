"""Find the balloon among QEMU's devices, by its type and never by its name.

A VM has at most one (QEMU refuses a second: "Only one balloon device is supported").
"""

import re
from collections.abc import Mapping, Sequence
from typing import cast

PLACES = ("/machine/peripheral", "/machine/peripheral-anon")
"""Where QEMU puts the devices of `-device`, in the order to look: those with an id, then those without."""

TYPES = frozenset(
    {
        "child<virtio-balloon-pci>",
        "child<virtio-balloon-pci-transitional>",
        "child<virtio-balloon-pci-non-transitional>",
        "child<virtio-balloon-ccw>",
        "child<virtio-balloon-device>",  # virtio-mmio: the device itself
    }
)
"""Types as `qom-list` writes them. `-device virtio-balloon` is an alias of one of these.

Source: QEMU hw/virtio/virtio-balloon-pci.c, hw/s390x/virtio-ccw-balloon.c; the proxies have aliases of
all properties of the device behind them.
"""


_NAME = re.compile(r"[A-Za-z0-9._\[\]-]{1,256}")
"""An id as QEMU allows it, or `device[7]`. The agent bounds its length: it goes into commands and the ledger.

Source: QEMU util/id.c, id_wellformed; system/qdev-monitor.c, qdev_set_id.
"""


def choose_balloon(place: str, listing: object) -> str | None:
    """Return the QOM path of the balloon in one of `PLACES`; `None`: it is not there.

    Args:
        place: the path that was listed.
        listing: the answer to `qom-list`: a list of objects with `name` and `type`.

    Raises:
        ValueError: the answer is not of that shape.
    """
    if not isinstance(listing, Sequence) or isinstance(listing, str):
        raise ValueError(f"qom-list of {place} did not answer with a list")
    for entry in cast(Sequence[object], listing):
        if not isinstance(entry, Mapping):
            raise ValueError(f"qom-list of {place} has an entry that is not an object")
        fields = cast(Mapping[str, object], entry)
        name, type_name = fields.get("name"), fields.get("type")
        if not isinstance(name, str) or not isinstance(type_name, str):
            raise ValueError(f"qom-list of {place} has an entry without name or type")
        if type_name in TYPES:
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"qom-list of {place} has an invalid name for the balloon: {name!r:.100}")
            return f"{place}/{name}"
    return None
