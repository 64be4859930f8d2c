"""How long the other processes of a run live on when one is killed at a random moment, on this machine.

Starts `planner run` steps in N processes over the loopback address, kills one (SIGKILL) and takes the time until the
last of the others has ended. Out: a row for each number of processes in `results/killed.jsonl`.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import append, environment, load

from planner.processes.launch import free_port

RESULTS = Path(__file__).parent / "results" / "killed.jsonl"
MODEL = ("mlp-tiny", "--batch", "32", "--stages", "2", "--microbatches", "2", "--hardware", "cpu-8")


def main() -> None:
    """Kill, take the time, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="for each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = str(Path(folder) / "plan.json")
        subprocess.run([sys.executable, "-m", "planner.cli", "plan", *MODEL, "--devices", "4", "-o", plan], check=True,
                       stdout=subprocess.DEVNULL)
        for count in args.processes:
            times = [killed(plan, count, random.Random(n)) for n in range(args.kills)]
            append(RESULTS, environment() | {
                "processes": count, "kills": len(times), "seconds_median": round(statistics.median(times), 3),
                "seconds_max": round(max(times), 3), "load": load()})
            print(f"{count} processes: others ended {statistics.median(times):.2f} s after (at most {max(times):.2f})")


def killed(plan: str, count: int, chance: random.Random) -> float:
    """Seconds from the kill to the end of the last other process."""
    where = f"127.0.0.1:{free_port('127.0.0.1')}"
    started = [subprocess.Popen(
        [sys.executable, "-m", "planner.cli", "run", *MODEL[:3], "--plan", plan, "--steps", "1000000", "--join",
         f"{where},{count},{n}", "--devices-per-process", str(4 // count)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True) for n in range(count)]
    try:
        for line in started[0].stdout or ():
            if line.split()[:1] == ["1"]:  # the second step: all have compiled
                break
        time.sleep(chance.random())
        victim = chance.randrange(count)
        begin = time.perf_counter()
        started[victim].kill()
        codes = [process.wait(timeout=60) for n, process in enumerate(started) if n != victim]
        spent = time.perf_counter() - begin
    finally:
        for process in started:
            process.kill()
            process.wait()
    if set(codes) != {70}:
        raise SystemExit(f"the others ended with {codes}")
    return spent


if __name__ == "__main__":
    main()
