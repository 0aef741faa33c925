"""How much memory this process can still get."""

import contextlib
import re
from pathlib import Path


def available_bytes() -> int | None:
    """Memory that this process can still get: of the machine, or up to `ulimit -v`. None where neither is known."""
    limits = []
    with contextlib.suppress(OSError):  # macOS has no such file
        if available := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii")):
            limits.append(int(available[1]) * 1024)
    with contextlib.suppress(ImportError, OSError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            n_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limits.append(max(0, limit - n_pages * resource.getpagesize()))
    return min(limits, default=None)
