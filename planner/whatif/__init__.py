"""Questions to a plan that only searching again answers: why a tensor lies as it does, what a change would bring.

The plan says what was chosen; here the same search prices what was not. In: a `PlanRecord` and the model that it is
for. Out: answers as data, and their tables.
"""
