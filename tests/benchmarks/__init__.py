"""Speed and memory against other software, at equal mathematics: `python -m tests.benchmarks`, `make bench`.

Contenders take turns, each in a process of its own, on the same batches with the same weights. Before anything is
timed their outputs are compared, and the benchmark fails where they differ. `docs/speed.md` explains and shows it.
"""
