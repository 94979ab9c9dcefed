"""As main.py does, before torch is imported: OpenMP threads that wait do not spin."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
