from planner.processes.agree import differences


def test_who_differs_from_most_is_named():
    facts = [{"jax": "0.10.2", "Python": "3.11"}] * 4
    assert differences(facts) == ()
    other = {"jax": "0.10.1", "Python": "3.11"}
    assert differences([*facts[:2], other, facts[0]]) == ("process 2 has jax 0.10.1, the others have 0.10.2",)
    assert differences([other, facts[0], facts[0], other, facts[0]]) == (
        "processes 0, 3 have jax 0.10.1, the others have 0.10.2",)


def test_of_two_process_0_is_right():
    assert differences([{"plan": "a"}, {"plan": "b"}]) == ("process 1 has plan b, the other has a",)
    assert differences([{"plan": "a"}, {}]) == ("process 1 has plan nothing, the other has a",)
