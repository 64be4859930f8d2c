"""How several models share one cluster (serving placement, many jobs): one policy a file, discovered."""
