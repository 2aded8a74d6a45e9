"""`python -m learner.parity`."""

import sys

import torch

from learner.parity.parity import main

if __name__ == "__main__":
    torch.set_num_threads(1)  # For the same rounding on every machine.
    sys.exit(main())
