"""How computations are run: private random numbers, threads, meetings, alignment in memory and plain state."""
