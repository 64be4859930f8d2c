import pytest

from planner.core.programs import named_program, program_name


@pytest.mark.parametrize(("stage", "work", "round_"), [(0, "forward", None), (12, "input_gradient", None),
                                                       (3, "update", 2)])
def test_a_name_tells_stage_and_work(stage, work, round_):
    name = program_name(stage, work, round_)
    assert named_program(name) == named_program(f"jit_{name}") == (stage, work)


@pytest.mark.parametrize("name", ["jit_convert", "stage_forward", "jit_stage1", "stage1_forward.3"])
def test_other_programs_are_none_of_ours(name):
    assert named_program(name) is None
