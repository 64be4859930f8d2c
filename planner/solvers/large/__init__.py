"""Large problems: nodes that determine each other are merged, the rest is searched by messages and exact trees.

The order: `merge` (Workspace -> Merged), `usage` (its memory), `prune`, `flat` (arrays for compiled loops), then
`sweeps` (messages), `prices` (on memory; the bound), `trees` (local search), `watch` (tight times), `relink` (the best
of two), `walk` (annealing), `exact` (elimination, CP-SAT), all by `search`.
"""
