"""The allocator's setting shows in page faults."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from models.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
def work():
    tensors = [torch.zeros(1 << 20) for _ in range(5)]
    del tensors
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode):
    result = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(result.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_is_used_again():
    pages = 3 * 5 * (4 << 20) // resource.getpagesize()
    assert _faults("keep") < pages // 10 < _faults("default")
