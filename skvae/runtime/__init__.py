"""How computations are run: private random numbers, threads, alignment in memory and plain state."""
