"""Ops on NVIDIA GPUs: torch tensors, Triton kernels, cuBLAS for wide products.

With `executor` above it the only place that sees torch or Triton; imported by name in ops/table.py
when the device is asked for. Under TRITON_INTERPRET=1 the same kernels run on CPU tensors.
"""
