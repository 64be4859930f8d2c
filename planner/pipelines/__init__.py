"""From what slices of layers cost to a pipeline: stages and their submeshes, under a schedule, with memory and price.

`stages.py` slices for one stage per group of devices; `virtual_stages.py` and `shapes.py` for several. `pipeline.py`
puts together what was chosen, `price.py` and `rank_memory.py` say what it takes; nothing can be below `bound.py` and
`virtual_bound.py`. `pins.py` refuses what contradicts a schedule.
"""
