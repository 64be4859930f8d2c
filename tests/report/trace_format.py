"""The Trace Event Format, as far as our files use it: what a reader of Chrome's or Perfetto's relies on."""

from collections import defaultdict


def assert_valid(document: dict) -> None:
    """Every event has what its phase needs, processes and threads have names, and slices of a thread nest."""
    assert set(document) == {"traceEvents", "displayTimeUnit"} and document["displayTimeUnit"] in ("ms", "ns")
    named, slices = set(), defaultdict(list)
    for event in document["traceEvents"]:
        assert isinstance(event["name"], str) and event["name"]
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name", "process_sort_index")
            key = "sort_index" if event["name"] == "process_sort_index" else "name"
            assert set(event["args"]) == {key}
            named.add((event["name"], event["pid"], event["tid"]))
        elif event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        else:
            assert event["ph"] == "C" and event["ts"] >= 0
            assert all(isinstance(x, int | float) for x in event["args"].values())
    for (pid, tid), spans in slices.items():
        assert ("process_name", pid, 0) in named and ("thread_name", pid, tid) in named
        open_until: list[float] = []
        for start, end in sorted(spans, key=lambda s: (s[0], -s[1])):
            while open_until and open_until[-1] <= start + 1e-3:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 1e-3, f"slices of {pid}, {tid} cross at {start}"
            open_until.append(end)
