"""Algebraic identities that turn a graph into an equal one that may run faster: one a file, discovered."""
