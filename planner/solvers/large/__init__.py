"""Large problems: nodes that determine each other are merged, the rest is searched by message passing and exact forests.

The order: `merge` (Workspace -> Merged), `flat` (Merged -> FlatModel, arrays for compiled loops), then `sweeps` (dual
bound and rounding), `forest` (exact re-choice of a random forest of nodes) and `repair` (memory), driven by `search`.
"""
