"""How long `planner replan` takes after a node is lost, the whole command, with what a plan left in the cache.

    python benchmarks/replan.py --out benchmarks/results/replan.jsonl

GPT-39B is planned for 64 V100 (8 nodes of p3.16xlarge), batch 1,024, into an empty cache; then a node is lost. Commands
are started as a user does, so that importing counts. `first`: the tables of meshes that only the smaller cluster has
are solved. `tables`: all tables are there, the plan is searched for. `ahead`: it was asked before, for another
node, and the plan is there. Seconds are of the wall clock, `cpu_s` of the process: a machine that does other things
takes longer, as `load_before` says.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from recording import append, environment, load

from planner.core import plan_io

PLANNER = (sys.executable, "-m", "planner.cli")


def main() -> None:
    """Plan, lose a node, lose it again, lose another; append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "replan.jsonl")
    parser.add_argument("--model", default="gpt-39b")
    parser.add_argument("--cluster", default="p3.16xlarge")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--cache", type=Path, help="go on with this cache and the plan in it; default: an empty one")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = options.cache or Path(scratch)
        old, new = folder / "old.plan.json", folder / "new.plan.json"
        kept = ("--cache-dir", str(folder / "cache"))
        before = load()
        row: dict[str, object] = {"model": options.model, "cluster": options.cluster, "nodes": options.nodes,
                                  "batch_size": options.batch, "load_before": before}
        if not old.exists():
            row["plan"] = timed("plan", options.model, "--cluster", options.cluster, "--nodes", str(options.nodes),
                                "--batch", str(options.batch), "--dtype", options.dtype, "-o", str(old), *kept)
        lose = ("replan", str(old), "--json", *kept)
        for kept_plan in (folder / "cache").glob("plan-*"):
            kept_plan.unlink()
        row["first"] = timed(*lose, "--without", "node3", "-o", str(new))
        for kept_plan in (folder / "cache").glob("plan-*"):
            kept_plan.unlink()
        row["tables"] = timed(*lose, "--without", "node3")
        row["ahead"] = timed(*lose, "--without", "node5")
        row["cache_bytes"] = sum(p.stat().st_size for p in (folder / "cache").iterdir())
        was, now = plan_io.load(old), plan_io.load(new)
        row |= {"old_step_s": was.step_time_s, "new_step_s": now.step_time_s, "devices": now.device_count,
                **environment()}
    append(options.out, row)
    print(row)


def timed(*command: str) -> dict[str, float]:
    """Seconds of a command, and of the processor that it had."""
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*PLANNER, *command], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


if __name__ == "__main__":
    main()
