"""The CUDA engine: CuPy holds memory and launches; the kernels lie in ``cuda/``."""
