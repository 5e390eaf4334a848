"""What computes: devices, threads, compiled code, CUDA graphs, child processes."""
