"""How the interpreter and the C library are set for work with many objects and with images of megabytes."""

import ctypes
import gc
from contextlib import suppress

GC_OBJECTS = 50_000
"""New objects between two looks for garbage; Python's own number is 700."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt`, as `malloc.h` has them."""
KEPT_BYTES, MAPPED_BYTES = 64 * 2**20, 32 * 2**20
"""Free memory a thread keeps; what is mapped on its own and given back when it is free. 32 MiB is glibc's most."""


def settle() -> None:
    """Look for garbage less often, and keep freed memory for the next image.

    Imports make thousands of objects that stay: looking for garbage among them is an eighth of a stage's start. glibc
    gives the memory of each image back to the system, and the next one's is mapped and zeroed page by page: a tenth of
    the time of `pull`. Where the C library is another, only the first is done.
    """
    gc.set_threshold(GC_OBJECTS)
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
