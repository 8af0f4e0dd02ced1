"""What is imported by the process that runs are forked off (harness/launchers.py): all that takes time.

It must not touch a GPU. A process forked off one that has cannot.
"""

# ruff: noqa: F401
import os

# Older versions of torch start helpers of the compiler where it is imported. They are the runs' to start.
os.environ["TORCH_WARM_POOL"] = "0"

import torch._dynamo
import torch._inductor.compile_fx

import gpt2.train_ra_mla
