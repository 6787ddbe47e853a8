"""Side-by-side timings: medians of paired runs in one process, ratios first, memory in processes of their own."""
