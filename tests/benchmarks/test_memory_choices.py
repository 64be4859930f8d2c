"""Ratios and tables of the memory choices."""

import memory_choices


def row(compiled, predicted, step_s):
    return {"compiled": compiled, "predicted": predicted, "predicted_step_s": step_s}


def test_every_row_is_held_against_the_first():
    first = memory_choices.against(row(200, 220, 2.0), [])
    second = memory_choices.against(row(100, 165, 3.0), [first])
    assert [first[k] for k in ("compiled_ratio", "predicted_ratio", "step_ratio")] == [1.0, 1.0, 1.0]
    assert [second[k] for k in ("compiled_ratio", "predicted_ratio", "step_ratio")] == [0.5, 0.75, 1.5]
    text = memory_choices.table([r | {"model": "m", "where": "here", "choice": c}
                                 for r, c in ((first, "nothing"), (second, "half"))])
    assert "m, here" in text and "0.500" in text.splitlines()[-1]


def test_the_base_comes_first_and_keeps_everything():
    for choices in memory_choices.CHOICES.values():
        name, pins = next(iter(choices.items()))
        assert (name, pins["recipe"], pins["recompute"]) == ("nothing", "data", "none")
