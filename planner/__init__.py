"""planner: give it a JAX model and a device mesh, get the fastest way to run it there."""
