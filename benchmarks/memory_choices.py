"""Peak memory under each choice of what to hold, against holding everything: compiled, never run.

    python benchmarks/memory_choices.py

A row per choice: recomputing nothing, selected tensors or all of every layer, and ZeRO stages 1, 2 and 3 (`fsdp`), each
alone and together. The base is data parallelism that keeps every activation. A pipeline of two stages over eight
microbatches shows what is held between its programs; one stage of four microbatches is one program, in which XLA on CPU
drops the barriers of recomputation, so that only ZeRO is looked at there. Bytes are those of the fullest stage:
arguments, results and temporaries of the compiled programs, with what the driver keeps between them (`planner/verify`),
beside what the plan says. Step times are predicted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from recording import append, environment

import planner
from planner import models
from planner.verify import verify_plan

MODELS: Mapping[str, Mapping[str, Any]] = {
    "gpt-tiny": {"batch_size": 64, "sequence": 128, "hidden": 256, "layers": 4, "vocabulary": 2048},
    "llama-tiny": {"batch_size": 64, "sequence": 128, "hidden": 256, "inner": 512, "layers": 4, "vocabulary": 2048},
}
"""Model -> settings."""

PIPELINE = {"stages": 2, "schedule": "1f1b", "boundaries": (3,), "mesh_axes": (("data", 4),), "microbatches": 8}

ONE = {"stages": 1, "microbatches": 4}

CHOICES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "2 stages × data 4": {
        "nothing": PIPELINE | {"recipe": "data", "recompute": "none"},
        "recompute selected": PIPELINE | {"recipe": "data", "recompute": "selected"},
        "recompute all": PIPELINE | {"recipe": "data", "recompute": "all"},
        "ZeRO-1": PIPELINE | {"recipe": "zero-1", "recompute": "none"},
        "ZeRO-2": PIPELINE | {"recipe": "zero-2", "recompute": "none"},
        "ZeRO-3": PIPELINE | {"recipe": "fsdp", "recompute": "none"},
        "ZeRO-1 + selected": PIPELINE | {"recipe": "zero-1", "recompute": "selected"},
        "ZeRO-3 + all": PIPELINE | {"recipe": "fsdp", "recompute": "all"},
    },
    "data 8": {
        "nothing": ONE | {"recipe": "data", "recompute": "none"},
        "ZeRO-1": ONE | {"recipe": "zero-1", "recompute": "none"},
        "ZeRO-2": ONE | {"recipe": "zero-2", "recompute": "none"},
        "ZeRO-3": ONE | {"recipe": "fsdp", "recompute": "none"},
    },
}
"""Where -> choice -> pins; "nothing" comes first: it is what the others are held against."""


def main() -> None:
    """Compile every choice, append rows, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory_choices.jsonl")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    for model in options.models:
        for where, choices in CHOICES.items():
            rows: list[dict[str, Any]] = []
            for choice, pins in choices.items():
                rows.append(against(measured(model, options.dtype, pins), rows) | {
                    "model": model, "dtype": options.dtype, "where": where, "choice": choice})
                append(options.out, rows[-1] | environment())
            print(table(rows), flush=True)


def measured(name: str, dtype: str, pins: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes of the fullest stage, compiled and predicted, and the predicted step."""
    model = models.build(name, dtype=dtype, **MODELS[name])
    record = planner.plan(model, planner.cluster("cpu-8"), **pins).record
    compiled = [s.compiled_bytes for s in verify_plan(record, model, "local").stages]
    return {"compiled": max(compiled), "predicted": max(s.memory.total_bytes for s in record.stages),
            "predicted_step_s": record.step_time_s}


def against(row: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row with its ratios to the first."""
    base = before[0] if before else row
    return {**row, "compiled_ratio": round(row["compiled"] / base["compiled"], 4),
            "predicted_ratio": round(row["predicted"] / base["predicted"], 4),
            "step_ratio": round(row["predicted_step_s"] / base["predicted_step_s"], 4)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The choices of one model and place, for people."""
    lines = [f"{rows[0]['model']}, {rows[0]['where']}", f"{'':<22}{'compiled':>12}{'÷ nothing':>11}{'predicted':>11}"
             f"{'step':>8}"]
    lines += [f"{r['choice']:<22}{r['compiled'] / 1e6:>9.2f} MB{r['compiled_ratio']:>11.3f}"
              f"{r['predicted_ratio']:>11.3f}{r['step_ratio']:>8.3f}" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
