"""A plan and a model as JAX code with sharding annotations; the runtime drives what is made here."""
