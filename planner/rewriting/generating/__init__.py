"""Proposes rewrites: enumerates small terms, finds those that are equal, leaves out what is known (TASO, SOSP 2019).

What `planner rewrites generate --operators 3 --seed 0` found when its output was reviewed (2026-11-28, all 19 operators
over `x,y,z,u,v,s`, to the end: 57 s of processor time): 201,167 terms, 14,680 pairs; 14,322 followed from others, 51
were not true for other shapes, 32 said only that an input does not matter. Of 275 identities that were left, 51 were
implied by rules that were there. 224 were proposed (148, and 76 that are their images), among them 84 that are kept as
13 rules since: cuts before what computes what is cut (`rewrites/cuts.py`), sums of products as products
(`weighted_sums.py`), concatenations (`joins.py`) and exponentials (`exponentials.py`) moved. The other 140 (116, and 24
that are their images) say how elementwise operators cancel, which compilers know (`(x * y) / y`, `-(-x)`), move factors
at the same cost, or hold for what nobody writes (`relu(x) / exp(relu(x))`).
"""
