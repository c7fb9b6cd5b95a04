"""Measurements that answer a question: architectures, scaling, sweeps, synthetic corpora."""
