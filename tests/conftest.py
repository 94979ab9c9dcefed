"""As main.py does, before torch is imported: OpenMP threads that wait spin only briefly."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
