"""Does memory stay flat over 1,000 meta-steps?   python tests/benchmarks/memory.py

Prints the resident size every 100 meta-steps of the demo's own meta-training, and exits non-zero
when it grows by more than 8 MiB after the first 100.
"""

import os
import sys
from pathlib import Path

from nested import MetaConfig, MetaHistory, MetaOptimizer, meta_train
from nested.tasks import Digits

ALLOWED_MIB = 8.0


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    sizes = []

    def watch(history: MetaHistory) -> None:
        if len(history.records) % 100 == 0:
            sizes.append(resident_mib())
            print(f"after {len(history.records):>5} meta-steps: {sizes[-1]:.1f} MiB", flush=True)

    meta_train(MetaOptimizer(), Digits(), MetaConfig(meta_steps=1000), on_step=watch)
    growth = max(sizes) - sizes[0]
    print(f"growth after the first 100: {growth:.1f} MiB ({ALLOWED_MIB:.0f} allowed)")
    return int(growth > ALLOWED_MIB)


if __name__ == "__main__":
    sys.exit(main())
