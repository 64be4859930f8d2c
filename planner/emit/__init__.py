"""A plan and a model as JAX code with sharding annotations (`annotate.py`); the runtime drives what is made here.

Nothing is imported here: where things lie under a plan can be asked without JAX.
"""
