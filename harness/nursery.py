"""What is imported by the process that runs are forked off (harness/launchers.py): all that takes time.

It must not touch a GPU: a process forked off one that has cannot.
"""

# ruff: noqa: E402, F401
import os
import signal

# Ctrl-C reaches this process too, and is the runner's to answer.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# Older versions of torch start helpers of the compiler where it is imported. They are the runs' to start.
os.environ["TORCH_WARM_POOL"] = "0"
# Others ask there whether there is a GPU. torch then does without the driver, which a forked process has to start anew.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch._dynamo
import torch._inductor.compile_fx

import gpt2.train_ra_mla

signal.signal(signal.SIGINT, signal.default_int_handler)
