"""From files to batches: readers, corpora, filters, tokenised data, plans of batches."""
