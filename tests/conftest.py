"""One thread per process: small tensors, and often another test run on the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
