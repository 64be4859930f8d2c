"""What things cost on a machine: pure functions from shapes, specs and logical meshes to seconds or bytes.

`topology` says which meshes there are, `compute` prices operators, `collectives` communication, `resharding` the way
from one sharding to another, `transfer` the way from stage to stage, `memory` counts bytes. Each names its source.
"""
