"""One script for every process: under Slurm, Open MPI or Kubernetes as it is, or by hand with --join, see below.

    python train.py --plan gpt.plan.json                                  # in every process of a job
    python train.py --plan gpt.plan.json --join 127.0.0.1:12345,2,0       # by hand: process 0 of 2, with 4 CPU devices

The plan is made once, anywhere: `python train.py --make gpt.plan.json --devices 8`.
"""

import argparse
from dataclasses import replace
from typing import Any

import jax
import numpy as np

import planner
from planner import models

BATCH = 32


def main() -> None:
    args = arguments()
    if args.make:
        jax.config.update("jax_num_cpu_devices", args.devices)
        planner.plan(build(0), jax.devices(), stages=2, microbatches=4).save(args.make)
        return
    address, count, process = args.join.split(",") if args.join else (None, None, None)
    with planner.distributed(address, count and int(count), process and int(process), devices=args.virtual) as group:
        plan, model = planner.load(args.plan), build(seed=0)  # the same parameters in every process
        with planner.Checkpoints(args.folder, plan, every=10) as checkpoints:  # a folder that all processes see
            run = checkpoints.resume(model, group.devices, or_start=True)
            state = run.state
            for n in range(run.done, args.steps):
                share = my_share(n, group)
                state, metrics = run.step(state, group.batch_of(share))
                if group.process == 0:
                    print(f"step {n}: loss {float(metrics['loss']):.4f}", flush=True)
                checkpoints.save(n + 1, state)


def build(seed: int) -> planner.Model:
    model = models.build("gpt-tiny", batch_size=BATCH)
    return replace(model, params=models.init(model, seed))


def my_share(step: int, group: Any) -> Any:
    """What this process loads of a batch: here random, in life its own files."""
    whole = models.random_batch(models.build("gpt-tiny", batch_size=BATCH), step)
    return jax.tree_util.tree_map(lambda x: np.split(np.asarray(x), group.count)[group.process], whole)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", default="gpt.plan.json")
    parser.add_argument("--make", metavar="FILE", help="plan for --devices virtual CPU devices, save, and end")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--join", metavar="HOST:PORT,COUNT,PROCESS", help="only where nothing else says it")
    parser.add_argument("--virtual", type=int, metavar="N", help="virtual CPU devices of this process")
    parser.add_argument("--folder", default="run-1")
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
