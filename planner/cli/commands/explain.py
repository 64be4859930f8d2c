"""`planner explain`: a saved plan in words and numbers; with its model, what else a search finds."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from planner.cli import options
from planner.cli.command import OK, Command, Output
from planner.core import plan_io
from planner.core.plan import PlanRecord
from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.model import Model


def add(parser: argparse.ArgumentParser) -> None:
    """The plan file."""
    parser.add_argument("plan", metavar="PLAN", help="a plan file, written by `planner plan -o`")
    parser.add_argument("--json", action="store_true", help="print the numbers behind the words as JSON")
    parser.add_argument("--operators", action="store_true", help="with every operator that moves tensors: partition, "
                        "combine, replicate, reduce, halos; of equal layers together")
    parser.add_argument("--tensor", metavar="NAME", help="why a parameter (its path or a pattern) or a named "
                        "activation is sharded as it is: what every other sharding would cost (needs --model)")
    parser.add_argument("--what-if", action="store_true", help="plan again with more memory, faster links, faster "
                        "devices, a larger batch, other counts: a search each (needs --model)")
    options.add_model(parser, option=True)
    options.add_cache(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Read and explain."""
    record = plan_io.load(args.plan)
    if args.tensor or args.what_if:
        return _search(args, record, out)
    from planner.report import breakdown, causes, operator_words
    from planner.report.explain import explain
    from planner.report.first_order import helps, recomputed_s

    if args.json:
        rank = breakdown.fullest_rank(record)
        usable = breakdown.kind_of_rank(record, rank).device.usable_bytes
        out.json({
            "step_time_s": record.step_time_s,
            "causes_s": causes.step_causes(record),
            "stages": [{"causes_s": causes.stage_causes(record, s)} for s in record.stages],
            "recomputed_s": recomputed_s(record),
            "headroom_bytes": usable - record.rank_bytes[rank],
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
            **({"operators": operator_words.as_data(record)} if args.operators else {}),
        })
    else:
        width = min(110, max(80, out.out.width)) if out.out.is_terminal else 100
        out.text(explain(record, width, operators=args.operators))
    return OK


def _search(args: argparse.Namespace, record: PlanRecord, out: Output) -> int:
    """Answer what only searching again can."""
    if args.model is None:
        raise PlannerError("--tensor and --what-if search again, which takes the model",
                           "give it with --model, as it was given to `planner plan`")
    if args.batch not in (None, record.batch_size):
        raise PlannerError(f"--batch {args.batch}: the plan is for a batch of {record.batch_size}", "leave it out")
    model = _model(args, record, record.batch_size)
    from planner.whatif import changes, tensor, words

    found: dict[str, Any] = {}
    with out.progress("searching") as tell:
        if args.tensor:
            found["tensor"] = tensor.why(record, model, args.tensor, tell)
        if args.what_if:
            found["what_if"] = changes.what_if(record, model, _larger(args, record), progress=tell,
                                               cache=options.cache(args, out))
    if args.json:
        out.json({name: [asdict(a) for a in answer] if isinstance(answer, tuple) else asdict(answer)
                  for name, answer in found.items()})
        return OK
    if "tensor" in found:
        out.show(words.why_table(found["tensor"]))
    if "what_if" in found:
        out.show(words.answers_table(record, found["what_if"]))
    return OK


def _model(args: argparse.Namespace, record: PlanRecord, batch: int) -> "Model":
    zoo = ":" not in args.model
    args.batch, args.dtype = batch, args.dtype or (record.compute_dtype if zoo else None)
    return options.model(args, record.device_count)


def _larger(args: argparse.Namespace, record: PlanRecord) -> "Model | None":
    """The model with a batch twice as large; None where the user's function takes no batch size."""
    try:
        return _model(args, record, 2 * record.batch_size)
    except PlannerError:
        return None


COMMAND = Command("explain", "say in words where time and memory of a saved plan go, and why", (
    "planner explain gpt.plan.json", "planner explain gpt.plan.json --json",
    "planner explain gpt.plan.json --operators",
    "planner explain gpt.plan.json --model gpt-2.6b --tensor 'layers/0/mlp/up'",
    "planner explain gpt.plan.json --model gpt-2.6b --what-if"), add, run)
