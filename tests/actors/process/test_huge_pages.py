"""What a process has in memory goes on huge pages, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

PROGRAM: Final = """
import ctypes, json, mmap, threading
from actors.process.huge_pages import _MADV_COLLAPSE, _SIZE, _find_heap, use_huge_pages

def count(name):
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith(name + ":")) * 1024

stop = threading.Event()
for _ in range(8):
    threading.Thread(target=stop.wait).start()
heap = [{"number": number} for number in range(200_000)]
before = count("Rss"), count("AnonHugePages")
pages = use_huge_pages()
after = count("Rss"), count("AnonHugePages")
heap.append({"number": 200_000})
right = all(one["number"] == number for number, one in enumerate(heap))
stop.set()

libc = ctypes.CDLL(None)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
with mmap.mmap(-1, 4 * _SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
    area[:] = b"1" * len(area)
    buffer = ctypes.c_char.from_buffer(area)
    at = -(-ctypes.addressof(buffer) // _SIZE) * _SIZE
    can = libc.madvise(at, _SIZE, _MADV_COLLAPSE) == 0
    del buffer
print(json.dumps({"pages": pages, "rss": after[0] - before[0], "huge": after[1] - before[1],
                  "right": right, "can": can}))
"""


def test_a_heap_goes_on_huge_pages_and_grows_by_next_to_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["right"]
    # What is there is some 25 MB; stacks of eight threads would be 16 MiB and more.
    assert told["pages"] >= 5 if told["can"] else told["pages"] == 0
    assert told["huge"] >= told["pages"] * (1 << 21) * 0.9
    assert told["rss"] < 8 << 20
