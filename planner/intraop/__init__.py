"""Intra-operator planning: layers of the graph and a logical mesh in, time-memory frontiers of shardings out."""
