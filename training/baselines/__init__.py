"""Baselines: models of other libraries, trained on the same data in the same batches."""
