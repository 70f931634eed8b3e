"""What all tests share, and the processes they start: no network, one thread.

Toy networks have nothing to divide: on a busy machine threads that wait for each other made a step take seconds.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
