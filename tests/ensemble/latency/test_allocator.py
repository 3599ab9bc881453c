"""How memory is allocated: tried out in processes of their own, as the setting is for a whole process."""

import ctypes
import os
import subprocess
import sys

import pytest

from ensemble.latency.allocator import allocator

SAY = "from ensemble.latency.allocator import allocator; print(allocator())"
KEEP = "from zoo.allocator import keep_freed_memory; keep_freed_memory(); "

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33"
)


@glibc
@pytest.mark.parametrize(
    ("code", "setting", "expected"),
    [
        (SAY, {}, "returns large blocks"),
        (SAY + "; print(allocator())", {}, "returns large blocks\nreturns large blocks"),
        (KEEP + SAY, {}, "keeps large blocks"),
        (SAY, {"MALLOC_MMAP_MAX_": "0"}, "keeps large blocks, MALLOC_MMAP_MAX_=0"),
        (
            SAY,
            {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0"},
            "keeps large blocks, GLIBC_TUNABLES=glibc.malloc.mmap_max=0, MALLOC_ARENA_MAX=1",
        ),
    ],
)
def test_what_the_c_library_does_is_said(code: str, setting: dict[str, str], expected: str) -> None:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_"))}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**bare, **setting})
    assert done.stdout.strip() == expected


def test_elsewhere_only_the_variables_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator() == ""
    monkeypatch.setenv("MALLOC_CHECK_", "3")
    assert allocator() == "MALLOC_CHECK_=3"
