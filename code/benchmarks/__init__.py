"""What benchmark.py and gpu_day.py are made of: workloads, a stopwatch, checks of a GPU."""
