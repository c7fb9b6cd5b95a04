"""Models of others, trained on the same data in the same batches, to measure ours against."""
