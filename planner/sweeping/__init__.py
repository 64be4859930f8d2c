"""Planning one model over clusters, sizes and batches, in this process or in several."""
