"""The allocator's setting: large blocks come from the heap, and the heap keeps them."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
from models.memory import keep_freed_memory
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):
    _fields_ = [("arena", ctypes.c_size_t), ("rest", ctypes.c_size_t * 9)]
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
libc.free(libc.malloc(20 << 20))
print(libc.mallinfo2().arena >> 20)
"""


def _kept_mebibytes(mode):
    result = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="a setting of glibc, read with what glibc has since 2.33",
)
def test_freed_memory_is_kept():
    assert _kept_mebibytes("keep") >= 20
    assert _kept_mebibytes("default") < 20
