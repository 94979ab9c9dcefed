"""How the suite runs. As main.py does, before torch is imported: OpenMP threads that wait spin only
briefly."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker for each core already


LONGEST = ("test_backends.py", "test_main.py", "test_mutants.py", "test_new_slot.py")


def pytest_collection_modifyitems(items):
    """The longest go first: what is left at the end is short, and no worker waits for another."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_xdist_auto_num_workers(config):
    """The whole suite goes to two cores or more, a part of it stays here, for a debugger."""
    is_whole = config.args == config.getini("testpaths")
    return min(os.cpu_count(), 4) if is_whole else 0
