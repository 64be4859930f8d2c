"""The generator finds what is known to be true, and nothing that rules imply, that is untrue, or that follows."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from planner.errors import RewriteError, UnknownNameError
from planner.rewrites import RULES
from planner.rewriting.generating import listing
from planner.rewriting.generating.generate import Findings, Settings, generate
from planner.rewriting.generating.laws import Laws
from planner.rewriting.generating.operators import text
from planner.rewriting.generating.proposals import Proposal
from planner.rewriting.generating.terms import Term, apply, given, inputs_of

LINEAR = Settings(most=3, operators=("add", "matmul", "transpose"), inputs=("x", "y", "z"))

KNOWN = {"(x @ y) + (x @ z)": "x @ (y + z)", "(x @ y) + (z @ y)": "(x + z) @ y", "(x @ y) @ z": "x @ (y @ z)",
         "x.T @ y.T": "(y @ x).T", "x.T + y.T": "(x + y).T", "x.T.T": "x"}
"""Distributivity from both sides, associativity, the transpose of a product and of a sum, transposing twice."""

RULES_OF_KNOWN = ("add_inputs", "add_weights", "merge_transposes", "reassociate_left", "reassociate_right",
                  "swap_operands", "transpose_after_elementwise", "transpose_into_product")


@cache
def found(settings: Settings, rules: tuple[str, ...] = ()) -> Findings:
    return generate(settings, [RULES[name] for name in rules])


def proposed(findings: Findings) -> dict[str, str]:
    """Both directions of all proposals and of what is likewise."""
    pairs = [(text(a), text(b)) for p in findings.proposals for a, b in ((p.left, p.right), *p.images)]
    return dict(pairs) | {b: a for a, b in pairs}


@pytest.mark.parametrize("left", KNOWN)
def test_what_is_known_is_found_where_no_rule_implies_it(left: str) -> None:
    assert proposed(found(LINEAR))[left] == KNOWN[left]


@pytest.mark.parametrize("left", KNOWN)
def test_what_rules_imply_is_not_proposed(left: str) -> None:
    findings = found(LINEAR, RULES_OF_KNOWN)
    assert left not in proposed(findings)
    implied = {text(a): (text(b), names) for a, b, names in findings.by_rules}
    assert implied[left][0] == KNOWN[left]
    assert implied[left][1], "names of the rules that imply it"


def test_what_is_found_counts_up() -> None:
    findings = found(LINEAR, RULES_OF_KNOWN)
    images = sum(len(p.images) for p in findings.proposals)
    judged = findings.untrue + findings.idle + findings.derived + len(findings.by_rules) + len(findings.proposals)
    assert judged + images == findings.looked_at == findings.pairs
    assert findings.ended == "complete"


MIXED = Settings(most=2, operators=("add", "mul", "scale", "matmul", "transpose", "sum0", "join0", "join1", "first0",
                                    "second0", "relu", "exp", "div"), inputs=("x", "y", "z", "u", "s"))


def in_numpy(term: Term, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """A term's text, read by Python."""
    names = {"concatenate": np.concatenate, "split": np.split, "exp": np.exp, "relu": lambda a: np.maximum(a, 0)}
    return eval(text(term), {"__builtins__": {}}, {**names, **arrays})  # our own text


def test_every_proposal_is_true_on_fresh_inputs() -> None:
    findings = found(MIXED)
    assert len(findings.proposals) > 30
    rng = np.random.default_rng(11)
    for p in findings.proposals:
        for left, right in ((p.left, p.right), *p.images):
            shapes = {name: tuple(4 for _ in range(given(name).rank)) for name in inputs_of(left, right)}
            arrays = {name: rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape) for name, shape in shapes.items()}
            np.testing.assert_allclose(in_numpy(left, arrays), in_numpy(right, arrays), rtol=1e-9, atol=1e-9,
                                       err_msg=f"{text(left)} = {text(right)}")


def test_no_proposal_follows_from_those_that_are_shorter() -> None:
    proposals = sorted(found(MIXED).proposals, key=lambda p: (p.left.length + p.right.length))
    for n, p in enumerate(proposals):
        laws = Laws()
        for shorter in proposals[:n]:
            if shorter.left.length + shorter.right.length < p.left.length + p.right.length:
                laws.learn(shorter.left, shorter.right)
        assert laws.normal(p.left) != laws.normal(p.right), text(p.left)


def test_the_most_promising_come_first_and_point_to_what_is_cheap() -> None:
    proposals = found(MIXED).proposals
    assert [p.gain for p in proposals] == sorted(p.gain for p in proposals)
    for p in proposals:
        if set(inputs_of(p.left)) == set(inputs_of(p.right)):
            assert p.dear.numbers() >= p.cheap.numbers()


def test_the_same_seed_finds_the_same_and_another_one_too() -> None:
    small = replace(LINEAR, most=2, inputs=("x", "y", "z", "u"))
    assert generate(small, ()) == found(small)
    assert proposed(generate(replace(small, seed=1), ())) == proposed(found(small))
    assert len(found(small).proposals) > 3


def test_interrupted_it_returns_what_it_has_found() -> None:
    calls = itertools.count()

    def tell(words: str, share: float) -> None:
        if "proposed" in words and next(calls) == 30:
            raise KeyboardInterrupt

    findings = generate(LINEAR, (), tell)
    assert findings.ended == "interrupted"
    assert findings.looked_at == 30 < findings.pairs
    assert len(findings.proposals) > 0
    assert proposed(findings).items() <= proposed(found(LINEAR)).items()


def test_without_time_it_says_so() -> None:
    findings = generate(replace(LINEAR, budget_s=1e-6), ())
    assert (findings.ended, findings.proposals) == ("budget", ())


@pytest.mark.parametrize(("settings", "words"), [
    (Settings(operators=("matmull",)), "matmul"), (Settings(inputs=("x", "k")), "input"),
    (Settings(most=0), "at least one operator"), (Settings(inputs=()), "one input"),
    (Settings(budget_s=0), "above zero")])
def test_what_can_not_be_enumerated_is_refused(settings: Settings, words: str) -> None:
    with pytest.raises((RewriteError, UnknownNameError)) as refused:
        generate(settings, ())
    assert words in str(refused.value)


def test_a_listing_says_sides_shapes_and_costs() -> None:
    findings = found(LINEAR)
    whole = listing.as_text(findings)
    assert "planner rewrites generate --operators 3 --inputs x,y,z --over add,matmul,transpose --seed 0" in whole
    start = whole.index("(x @ y) + (x @ z)  ->  x @ (y + z)")
    block = whole[start:whole.index("\n\n", start)]
    assert "x m×k, y k×n, z k×n; result m×n" in block
    assert "4mkn + mn -> 2mkn + kn" in block
    assert "reductions  2 -> 1" in block
    data = listing.as_data(findings)
    assert len(data["proposals"]) == len(findings.proposals)


def test_an_image_is_named_with_what_it_is_an_image_of() -> None:
    by_left: dict[str, Proposal] = {text(p.left): p for p in found(LINEAR).proposals}
    image, = by_left["(x @ y) + (x @ z)"].images
    assert (text(image[0]), text(image[1])) == ("(x @ y) + (z @ y)", "(x + z) @ y")


def test_laws_imply_instances_and_chains_and_nothing_else() -> None:
    x, y, z, w, u = (given(name) for name in "xyzwu")
    laws = Laws()
    laws.learn(apply("add", apply("matmul", x, z), apply("matmul", y, z)), apply("matmul", apply("add", x, y), z))
    laws.learn(apply("transpose", apply("transpose", x)), x)
    sides = [apply("add", apply("matmul", a, w), apply("matmul", b, w))
             for a, b in ((apply("transpose", apply("transpose", x)), y), (x, y))]
    assert laws.imply(sides[0], apply("matmul", apply("add", x, y), w))
    assert not laws.imply(sides[1], apply("matmul", w, apply("add", x, y)))
    laws.learn(apply("relu", apply("relu", x)), apply("relu", x))
    assert laws.imply(apply("relu", apply("relu", u)), apply("relu", u)), "holds for vectors too"
