"""A disk without room, as a process sees it: what is written beyond the limit is cut short, as the kernel does it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited_files(*, octets: int) -> Iterator[None]:
    """No file of this process may grow beyond so many octets (Python ignores SIGXFSZ)."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
