"""Every type that is saved, or read by more than the next step. Imports no JAX."""
