"""Exact, reversible simplifications of a problem: one per file, each with its proof."""
