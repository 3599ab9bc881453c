"""Freed memory stays: glibc's own counters say so, in a process of their own."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from zoo import allocator
from zoo.allocator import allocator_setting, keep_freed_memory

COUNT = """
import ctypes, sys

class Counters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Counters
size = 64 << 20

def taken():
    before = libc.mallinfo2()
    block = libc.malloc(size)
    mapped = libc.mallinfo2().hblks - before.hblks
    libc.free(block)
    return mapped, libc.mallinfo2().arena - before.arena

mapped, kept = taken()
assert mapped == 1 and kept < 0.1 * size, ("by default", mapped, kept)
from zoo.allocator import allocator_setting, keep_freed_memory
assert allocator_setting() == ""
assert keep_freed_memory() is True
assert allocator_setting() == "keeps freed memory"
mapped, kept = taken()
assert mapped == 0 and kept > 0.9 * size, ("afterwards", mapped, kept)
mapped, kept = taken()
assert mapped == 0 and kept == 0, ("reused", mapped, kept)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33"
)
def test_large_blocks_come_from_the_heap_and_stay_there() -> None:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(allocator._ENVIRONMENT)}
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=False, env=bare)
    assert done.returncode == 0, done.stderr


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False


@pytest.mark.parametrize(
    "library", [SimpleNamespace(), SimpleNamespace(mallopt=lambda _option, _value: 0)], ids=["none", "refuses"]
)
def test_another_c_library(monkeypatch: pytest.MonkeyPatch, library: SimpleNamespace) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    assert keep_freed_memory() is False


def test_what_the_environment_sets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_made", set())
    for name in [name for name in os.environ if name.startswith(allocator._ENVIRONMENT)]:
        monkeypatch.delenv(name)
    assert allocator_setting() == ""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_max=0")
    assert allocator_setting() == "GLIBC_TUNABLES=glibc.malloc.mmap_max=0, MALLOC_ARENA_MAX=1"
