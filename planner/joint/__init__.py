"""Rewrites and shardings searched together: which algebraic rewrites make a model's plan faster on this cluster."""
