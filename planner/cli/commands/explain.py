"""`planner explain`: a saved plan in words and numbers."""

import argparse
from dataclasses import asdict

from planner.cli.command import OK, Command, Output
from planner.core import plan_io


def add(parser: argparse.ArgumentParser) -> None:
    """The plan file."""
    parser.add_argument("plan", metavar="PLAN", help="a plan file, written by `planner plan -o`")
    parser.add_argument("--json", action="store_true", help="print the numbers behind the words as JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Read and explain."""
    record = plan_io.load(args.plan)
    from planner.report import breakdown, causes
    from planner.report.explain import explain
    from planner.report.first_order import helps, recomputed_s

    if args.json:
        usable = record.cluster.device.usable_bytes
        out.json({
            "step_time_s": record.step_time_s,
            "causes_s": causes.step_causes(record),
            "stages": [{"causes_s": causes.stage_causes(record, s)} for s in record.stages],
            "recomputed_s": recomputed_s(record),
            "headroom_bytes": usable - record.peak_bytes,
            "alternatives": [asdict(a) for a in record.alternatives],
            "schedules": [asdict(s) for s in record.schedules],
            "helps": [asdict(h) for h in helps(record)],
            "device_seconds": breakdown.device_seconds(record),
            "mfu": breakdown.mfu(record),
            "bottleneck_stage": breakdown.bottleneck(record).index,
            "memory_bytes": [dict(zip(breakdown.MEMORY_KINDS, breakdown.memory_parts(s), strict=True))
                             for s in record.stages],
            "collectives": [dict(zip(("kind", "axes", "where", "count", "seconds"), row, strict=True))
                            for row in breakdown.collectives_by_cause(record)],
            "baselines": [asdict(b) for b in record.baselines],
            "warnings": record.warnings,
        })
    else:
        out.text(explain(record, min(110, max(80, out.out.width)) if out.out.is_terminal else 100))
    return OK


COMMAND = Command("explain", "say in words where time and memory of a saved plan go, and why", (
    "planner explain gpt.plan.json", "planner explain gpt.plan.json --json"), add, run)
