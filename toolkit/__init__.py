"""attention-toolkit: attention as a part you can name, swap, measure and question."""

__version__ = "0.1.0"
