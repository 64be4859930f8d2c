import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.core import plan_io
from planner.core.plan import SCHEMA_VERSION, PlanRecord, TimeParts
from planner.core.typed_json import JsonShapeError, decode, encode
from planner.errors import PlanFileError
from tests.report.records import eight_devices, sixty_four_devices, two_devices

RECORDS = (two_devices(), eight_devices(), sixty_four_devices())


def rewritten(record: PlanRecord, change: dict) -> str:
    """The plan's file with fields of the plan changed and the checksum made good."""
    document = json.loads(plan_io.to_json(record))
    document["plan"].update(change)
    document["checksum"] = plan_io._checksum(document["plan"])
    return json.dumps(document)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: str(r.device_count))
def test_round_trip_is_equal_and_byte_identical(record):
    text = plan_io.to_json(record)
    again = plan_io.from_json(text)
    assert again == replace(record, phases_s=())
    assert again.cluster.sources == record.cluster.sources
    assert plan_io.to_json(again) == text == plan_io.to_json(record)


def test_specs_stand_on_one_line():
    assert '[1, [[], [1]]]' in plan_io.to_json(eight_devices())
    assert max(len(line) for line in plan_io.to_json(sixty_four_devices()).splitlines()) < 400


def test_save_and_load(tmp_path):
    place = tmp_path / "gpt.plan.json"
    plan_io.save(eight_devices(), place)
    assert plan_io.load(place) == replace(eight_devices(), phases_s=())
    assert [p.name for p in tmp_path.iterdir()] == ["gpt.plan.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    place = tmp_path / "a.json"
    plan_io.save(two_devices(), place)
    before = place.read_bytes()

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(PlanFileError, match="No space left"):
        plan_io.save(eight_devices(), place)
    assert place.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_save_into_no_folder(tmp_path):
    with pytest.raises(PlanFileError, match="cannot write"):
        plan_io.save(two_devices(), tmp_path / "no" / "a.json")


def test_missing_file(tmp_path):
    with pytest.raises(PlanFileError, match="there is no plan file"):
        plan_io.load(tmp_path / "a.json")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_truncated_file(tmp_path, keep):
    text = plan_io.to_json(two_devices()).rstrip()
    (tmp_path / "a.json").write_text(text[:int(len(text) * keep)])
    with pytest.raises(PlanFileError, match="truncated"):
        plan_io.load(tmp_path / "a.json")


def test_binary_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanFileError, match="not text"):
        plan_io.load(tmp_path / "a.json")


@settings(max_examples=60)
@given(st.data())
def test_every_changed_digit_is_noticed(data):
    text = plan_io.to_json(two_devices())
    at = data.draw(st.sampled_from([m.start() for m in re.finditer(r"\d", text)]))
    digit = data.draw(st.sampled_from([d for d in "123456789" if d != text[at]]))
    changed = text[:at] + digit + text[at + 1:]
    assume(json.loads(changed) != json.loads(text))  # the 17th digit of a number may not matter
    with pytest.raises(PlanFileError):
        plan_io.from_json(changed)


def test_reformatting_the_file_is_no_corruption():
    text = json.dumps(json.loads(plan_io.to_json(two_devices())), indent=7)
    assert plan_io.from_json(text) == replace(two_devices(), phases_s=())


def test_another_schema_version_says_which():
    document = json.loads(plan_io.to_json(two_devices())) | {"schema_version": 77}
    words = rf"schema version 77; this planner reads version {SCHEMA_VERSION}\n  → plan again"
    with pytest.raises(PlanFileError, match=words):
        plan_io.from_json(json.dumps(document))


def test_other_json_is_refused():
    with pytest.raises(PlanFileError, match="is not a plan file"):
        plan_io.from_json('{"problem": {}}')


@pytest.mark.parametrize(("change", "words"), [
    ({"step_time_s": "fast"}, r"plan\.step_time_s is str 'fast', not float"),
    ({"batch_size": 1.5}, r"plan\.batch_size is float 1\.5, not int"),
    ({"batch_size": True}, r"plan\.batch_size is bool True, not int"),
    ({"stages": [{}]}, r"plan\.stages\[0\] has no field 'collectives'"),
    ({"warnings": "none"}, r"plan\.warnings is str 'none', not an array"),
    ({"pins": [["a"]]}, r"plan\.pins\[0\] has 1 elements, not 2"),
    ({"speed": 1}, r"plan has a field 'speed' that this version does not know"),
])
def test_wrong_fields_are_named(change, words):
    with pytest.raises(PlanFileError, match=words):
        plan_io.from_json(rewritten(two_devices(), change))


def test_deep_wrong_field_is_named():
    stage = json.loads(plan_io.to_json(two_devices()))["plan"]["stages"][0]
    stage["time"]["compute_s"] = None
    with pytest.raises(PlanFileError, match=r"plan\.stages\[0\]\.time\.compute_s is NoneType None, not float"):
        plan_io.from_json(rewritten(two_devices(), {"stages": [stage]}))


def test_a_number_that_is_not_finite_is_not_written():
    with pytest.raises(PlanFileError, match=r"plan\.step_time_s is inf, not a finite number"):
        plan_io.to_json(replace(two_devices(), step_time_s=float("inf")))


def test_numpy_numbers_are_written_as_plain_ones():
    assert encode(TimeParts(compute_s=np.float32(0.5)), TimeParts, "t")["compute_s"] == 0.5
    assert encode((np.int64(3),), tuple[int, ...], "t") == [3]


def test_int_in_a_float_field_reads_back_the_same():
    record = replace(two_devices(), step_time_s=3)
    assert plan_io.to_json(plan_io.from_json(plan_io.to_json(record))) == plan_io.to_json(record)


def test_a_field_with_a_default_may_be_missing():
    assert decode({"compute_s": 1.0}, TimeParts, "t") == TimeParts(1.0)


def test_unions_take_the_option_that_fits():
    assert decode(["a", ["b"], None], tuple[str | tuple[str, ...] | None, ...], "t") == ("a", ("b",), None)
    with pytest.raises(JsonShapeError, match=r"t\[0\]"):
        decode([1], tuple[str | None, ...], "t")
