"""Models over a `GraphBatch`: plain modules, built of the attention contract."""
