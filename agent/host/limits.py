"""The limits of this process, and the state of the kernel's clock."""

import ctypes
import errno
import resource

_TIMEX_BYTES = 512  # struct timex has 208 on 64-bit Linux; zeros as `modes` only read (adjtimex(2))
_TIME_ERROR = 5
"""The clock is not synchronized."""


def files_max() -> int | None:
    """Return the hard limit on open files, up to which the agent raises its own; `None`: there is none."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def clock_is_synchronized() -> bool | None:
    """Return whether a time service disciplines the clock; `None`: the kernel does not show it."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):  # a C library without it
        return None
    if state < 0 or ctypes.get_errno() == errno.EPERM:
        return None
    return state != _TIME_ERROR
