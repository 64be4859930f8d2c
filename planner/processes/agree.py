"""What all processes of a run must have in common, and in words which of them has something else.

In: facts of this process, name -> text. Out: nothing where all agree; else the same `DisagreementError` in every
process. Before any device runs, facts go through JAX's coordination service: processes that could not compute together
can still say why. Afterwards they go over the devices.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.errors import DisagreementError, ProcessError

_TEXT_BYTES = 1024
LIMIT_S = 300
"""How long processes wait for each other here: as long as JAX lets them take to get started."""
_READ_S = 10.0
"""How long process 0 waits until another has read what it is to end with: far more than that takes."""


def agree(client: Any, process: int, count: int, topic: str, facts: Mapping[str, str], limit_s: float = LIMIT_S
          ) -> None:
    """Compare facts of all processes; called once for a topic in each.

    Args:
      client: `compat.coordination_client()`.
      process, count: which process this is, of how many.

    Raises:
      DisagreementError: they differ.
      ProcessError: a process does not come to this point.
    """
    place = f"planner/agree/{topic}"
    client.key_value_set(f"{place}/{process}", json.dumps(dict(facts)))
    if process == 0:
        verdict = _verdict([_told(client, f"{place}/{n}", n, limit_s) for n in range(count)])
        client.key_value_set(f"{place}/verdict", json.dumps(verdict))
        if verdict:  # process 0 keeps what the others have to read, and is about to end
            with contextlib.suppress(ProcessError):
                for n in range(1, count):
                    _told(client, f"{place}/read/{n}", n, _READ_S)
    else:
        verdict = _told(client, f"{place}/verdict", 0, limit_s)
        client.key_value_set(f"{place}/read/{process}", "true")
    if verdict:
        raise DisagreementError(*verdict)


def _told(client: Any, key: str, process: int, limit_s: float) -> Any:
    try:
        return json.loads(client.blocking_key_value_get(key, int(limit_s * 1000)))
    except RuntimeError as fault:
        raise ProcessError(f"process {process} did not come to the same point within {limit_s:.0f} s ({fault})",
                           "look at what it wrote; start all processes with the same script") from fault


def agree_on_devices(facts: Mapping[str, str]) -> None:
    """Compare facts of all processes by a collective over a device of each.

    Raises:
      DisagreementError: they differ.
    """
    first = {d.process_index: d for d in reversed(jax.devices())}
    mesh = Mesh(np.array([first[n] for n in sorted(first)]), ("process",))
    text = json.dumps(dict(facts)).encode()
    assert len(text) <= _TEXT_BYTES
    mine = np.frombuffer(text.ljust(_TEXT_BYTES), np.uint8)[None]
    told = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), mine)
    everyone = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(told)
    verdict = _verdict([json.loads(bytes(row)) for row in np.asarray(everyone)])
    if verdict:
        raise DisagreementError(*verdict)


def _verdict(facts: Sequence[Mapping[str, str]]) -> tuple[str, str] | None:
    found = differences(facts)
    return ("the processes do not run the same: " + "; ".join(found), "give every process the same files, versions, "
            "options and environment") if found else None


def differences(facts: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """In words, what processes have that most others have not; where there is no majority, process 0 is right.

    Args:
      facts: of each process in order.
    """
    found = []
    for name in dict.fromkeys(name for own in facts for name in own):
        told = [own.get(name, "nothing") for own in facts]
        count = Counter(told)
        usual = max(count, key=lambda text: (count[text], text == told[0]))
        apart: dict[str, list[int]] = {}
        for n, text in enumerate(told):
            if text != usual:
                apart.setdefault(text, []).append(n)
        found += [f"{_processes(who)} {name} {text}, {'the others have' if len(facts) > 2 else 'the other has'} {usual}"
                  for text, who in apart.items()]
    return tuple(found)


def _processes(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers))
    return f"process {listed} has" if len(numbers) == 1 else f"processes {listed} have"
