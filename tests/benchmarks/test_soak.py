"""What the soak of killed runs takes for broken."""

import json

import pytest
from soak import Broken, Seen, compare, listen


def lines(*said: dict[str, object]) -> list[str]:
    return [json.dumps(one) + "\n" for one in said]


def loaded(done: int, *skipped: str) -> dict[str, object]:
    return {"done": done, "skipped": skipped, "seconds": 1.0}


def test_what_a_run_says_is_taken_in_up_to_the_line_that_the_kill_cut():
    seen = Seen()
    said = lines(loaded(2), {"step": 2, "loss": 0.5}, {"safe": 2, "seconds": 0.1}, {"step": 3, "loss": 0.4})
    assert listen(seen, [*said, '{"step": 4, "lo'], 0) == 4
    assert (seen.losses, seen.safe) == ([(2, 0.5, 0), (3, 0.4, 0)], 2)
    assert listen(seen, [], 0) is None


@pytest.mark.parametrize(("said", "text"), [
    (loaded(2), "went on from step 2, though the checkpoint of step 4 was finished"),
    (loaded(4, "run/6 is damaged: seal.json is missing"), "a kill left a damaged checkpoint")])
def test_a_lost_or_damaged_checkpoint_is_broken(said, text):
    with pytest.raises(Broken, match=text):
        listen(Seen(safe=4), lines(said), 0)


def test_another_loss_is_broken():
    seen = Seen(losses=[(3, 0.5 + 1e-7, 1)])
    compare(seen, {3: 0.5}, 1e-3)
    with pytest.raises(Broken, match="step 3 under data on 4 has loss"):
        compare(seen, {3: 0.5}, 0.0)
