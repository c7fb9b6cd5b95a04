"""Speed of training and decoding on one GPU: `make bench-gpu`, `python -m tests.benchmarks.gpu`.

The paper's base model is trained on updates of 25,000 source and 25,000 target tokens and decodes, in the ways that a
GPU has, beside MarianMT and CTranslate2. Every part runs in a process of its own: one that fails leaves one line that
says why, and the others run. `docs/speed.md` shows what it measured.
"""
