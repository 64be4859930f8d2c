from dataclasses import replace

import pytest

from planner.core.plan import Collective, LayerTime, TimeParts
from planner.report.first_order import helps, recomputed_s
from tests.report.records import eight_devices, sixty_four_devices, two_devices, vee


@pytest.mark.parametrize("record", [two_devices(), eight_devices(), sixty_four_devices(), vee()],
                         ids=lambda r: str(r.device_count))
def test_nothing_helps_beyond_its_share_of_the_step(record):
    found = helps(record)
    assert [h.speedup for h in found] == sorted((h.speedup for h in found), reverse=True)
    assert all(h.speedup >= 1 for h in found)
    twice = {h.change: h.speedup for h in found if "twice" in h.change}
    assert max(twice.values()) <= 2
    assert len(found) == len({h.change for h in found}) >= 3


def test_by_hand():
    """One stage, two microbatches of 3 s compute and 1 s reductions, of the compute 1 s a forward again; 2 s of sync.

    The step is 10 s. Compute halved saves 3 s; links inside the node halve 2 · 1 + 2 s: 2 s less; twice the batch is
    18 s.
    """
    moves = (Collective("all-reduce", (0,), 1, 1.0, "microbatch", "forward", "dot"),
             Collective("all-reduce", (0,), 1, 2.0, "batch", "backward", "gradient of w"))
    stage = replace(two_devices().stages[0], time=TimeParts(3.0, 1.0, grad_sync_s=2.0), collectives=moves, send_s=0.0,
                    layer_times=(LayerTime(forward_s=0.5), LayerTime(forward_s=0.5)), recompute=(1,))
    record = replace(two_devices(), stages=(stage,), microbatches=2, step_time_s=10.0)
    assert recomputed_s(record) == 1.0
    found = {h.change: h for h in helps(record)}
    assert found["devices that compute twice as fast"].step_time_s == pytest.approx(7.0)
    assert found["twice the bandwidth inside nodes"].step_time_s == pytest.approx(8.0)
    assert found["a batch twice as large"].step_time_s == pytest.approx(18.0)
    assert found["a batch twice as large"].speedup == pytest.approx(20 / 18)
    assert found["more memory"].at_most and found["more memory"].speedup == pytest.approx(10 / 9)
    assert "twice the bandwidth between nodes" not in found
    assert "stages that never wait" not in found
