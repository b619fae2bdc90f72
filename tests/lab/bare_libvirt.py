"""A bare loop over libvirt's bindings: the least that a reader of libvirt can do, as a lower bound.

`python -m tests.lab.bare_libvirt URI INTERVAL_S` makes one bulk call in each interval, and prints what
libvirt answers for each domain as a line of JSON. It keeps no state between calls and handles no errors.
The bindings must be on `PYTHONPATH`.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any


def main(uri: str, interval_s: float) -> None:
    """Print the answers until the process is killed."""
    libvirt: Any = import_module("libvirt")
    connection = libvirt.openReadOnly(uri)
    flags = (
        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    due_s = time.monotonic()
    while True:
        answers = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BALLOON, flags)
        at_ms = round(time.time() * 1000)
        for domain, balloon in answers:
            print(json.dumps({"name": domain.name(), "at_ms": at_ms, **balloon}))
        sys.stdout.flush()
        due_s += interval_s
        time.sleep(max(due_s - time.monotonic(), 0))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
