"""Which nodes run inside others, and the kernels and buffers that remain.

A node whose readers can all take it in is never written to memory: its readers compute it again. In: `Nodes`, the
tensors that must be there in the end. Out: `Kernel`s in program order, and per tensor the buffer that holds it.
Source: XLA's instruction fusion (`xla/service/instruction_fusion.cc`), as seen in compiled programs (jax 0.10.2, CPU).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.costs.liveness import Kernel
from planner.footprint.compilers import Compiler
from planner.footprint.kinds import Kind
from planner.footprint.nodes import Node, Nodes

FUSIBLE = frozenset({Kind.VIEW, Kind.BROADCAST, Kind.CHEAP, Kind.DEAR})

STEADY = frozenset({Kind.SUM, Kind.REDUCE_SCATTER, Kind.ALL_REDUCE})
"""What runs where it is written, even if its readers could wait."""


@dataclass(frozen=True)
class Fused:
    """Kernels over buffers. `buffer`: tensor -> the tensor whose buffer it lies in, for all that lie in one;
    `sizes`: bytes per buffer; `ops`: operator per kernel, and `light`, whether it only moves and converts."""

    kernels: tuple[Kernel, ...]
    ops: tuple[int, ...]
    light: tuple[bool, ...]
    buffer: dict[int, int]
    sizes: dict[int, int]


def fuse(nodes: Nodes, kept: Sequence[int], compiler: Compiler) -> Fused:
    """Fuse. `kept`: tensors that are outputs."""
    return _Fusion(nodes, frozenset(kept), compiler).run()


class _Fusion:
    def __init__(self, nodes: Nodes, kept: frozenset[int], compiler: Compiler) -> None:
        self._nodes, self._kept, self._compiler = nodes, kept, compiler
        self._readers: list[list[int]] = [[] for _ in nodes.tensors]
        for n, node in enumerate(nodes.nodes):
            for t in dict.fromkeys(node.operands):
                self._readers[t].append(n)
        self._inside: list[frozenset[int]] = [frozenset()] * len(nodes.nodes)  # kernels that a node runs in
        self._written: list[bool] = [True] * len(nodes.nodes)
        self._wide = _by_sources(nodes, self._readers) if compiler.fuses_chains else \
            [_is_wide(nodes, node) for node in nodes.nodes]

    def run(self) -> Fused:
        for n in reversed(range(len(self._nodes.nodes))):
            self._decide(n)
        buffer: dict[int, int] = {t: t for t, tensor in enumerate(self._nodes.tensors) if tensor.node < 0}
        joined = {t for parts in self._nodes.joined.values() for t in parts if len(parts) > 1}
        kernels: list[Kernel] = []
        ops: list[int] = []
        for n, node in enumerate(self._nodes.nodes):
            if not self._written[n]:
                continue
            reads = self._leaves(n)
            if node.kind is Kind.VIEW and reads == frozenset(node.operands):
                buffer[node.results[0]] = buffer[node.operands[0]]
                continue
            buffer |= {t: t for t in node.results}
            own = tuple(sorted({buffer[t] for t in reads}))
            over = tuple(buffer[t] for t in node.operands[:1]) if node.over else ()
            if node.kind in FUSIBLE:
                over = tuple(sorted({buffer[t] for t in reads} - {buffer[t] for t in self._leaves(n, moved=True)}
                                    - {buffer[t] for t in self._reduced(own)} - joined))
            kernels.append(Kernel(own, node.results, over, waits=bool(own) and node.kind not in STEADY))
            ops.append(node.op)
        if self._compiler.merges_bytes:
            kernels, ops = self._merged(kernels, ops)
        sizes = {t: self._nodes.tensors[t].bytes for t in set(buffer.values())}
        light = tuple(self._maker(k).kind in FUSIBLE for k in kernels)
        return Fused(tuple(kernels), tuple(ops), light, buffer, sizes)

    def _decide(self, n: int) -> None:
        """Whether a node is written, and the kernels that it runs in; its readers are decided."""
        node = self._nodes.nodes[n]
        readers = [r for t in node.results for r in self._readers[t]]
        kept = any(t in self._kept for t in node.results)
        takers = [r for r in readers if self._takes(r, n)]
        around = frozenset(k for r in takers for k in self._inside[r])
        if node.kind not in FUSIBLE:
            written, inside = bool(readers) or kept, frozenset({n})
        elif not readers and not kept:
            written, inside = False, frozenset[int]()
        else:
            refused = kept or len(takers) < len(readers)
            once = node.kind is Kind.DEAR or (self._compiler.fuses_chains and self._wide[n])
            whole = (once and (refused or len(around) > 1)) or (refused and self._wide[n])
            written = whole or refused
            inside = frozenset({n}) if whole else around | ({n} if refused else frozenset())
            self._wide[n] = self._wide[n] or whole  # read, where it is written, by all readers
        self._written[n], self._inside[n] = written, inside

    def _takes(self, reader: int, n: int) -> bool:
        """Whether a reader may take a node in."""
        node, made = self._nodes.nodes[n], self._nodes.nodes[reader]
        if node.kind not in FUSIBLE:
            return False
        if made.kind is Kind.SUM:
            return self._compiler.fuses_chains or self._is_summed(n)
        if self._compiler.fuses_chains and made.kind is Kind.VIEW and self._written[reader]:
            return False  # it shows what its operand holds
        return made.kind in FUSIBLE and not self._is_summed(reader)

    def _is_summed(self, n: int) -> bool:
        """Whether a node is a product that a reduction takes in, and nothing with it."""
        if self._compiler.fuses_chains:
            return False
        readers = [r for t in self._nodes.nodes[n].results for r in self._readers[t]]
        return self._nodes.nodes[n].product and len(readers) == 1 and self._nodes.nodes[readers[0]].kind is Kind.SUM

    def _leaves(self, n: int, *, moved: bool = False) -> frozenset[int]:
        """The written tensors that a kernel reads; `moved`: only those it reads from other places than it writes."""
        found: set[int] = set()
        stack = [(n, self._nodes.nodes[n].moves)]
        seen = {stack[0]}
        while stack:
            at, moves = stack.pop()
            for t in self._nodes.nodes[at].operands:
                maker = self._nodes.tensors[t].node
                if maker < 0 or (self._written[maker] and self._wide[maker]) or not self._takes(at, maker):
                    found |= {t} if moves or not moved else set()
                    continue
                further = (maker, moves or self._nodes.nodes[maker].moves)
                if further not in seen:
                    seen.add(further)
                    stack.append(further)
        return frozenset(found)

    def _reduced(self, reads: Sequence[int]) -> set[int]:
        """Tensors that a kernel reads row by row: it also reads a reduction of each row, which is made in it."""
        found: set[int] = set()
        rows = [t for t in reads if self._compiler.longest_row and self._makes_sum(t)]
        for t in rows:  # grows: sums of sums
            for r in self._leaves(self._nodes.tensors[t].node):
                if self._makes_sum(r):
                    rows += [r] if r not in rows else []
                elif self._nodes.tensors[r].elements <= self._compiler.longest_row * self._nodes.tensors[t].elements:
                    found.add(r)
        return found

    def _makes_sum(self, tensor: int) -> bool:
        maker = self._nodes.tensors[tensor].node
        return maker >= 0 and self._nodes.nodes[maker].kind is Kind.SUM

    def _maker(self, kernel: Kernel) -> Node:
        return self._nodes.nodes[self._nodes.tensors[kernel.writes[0]].node]

    def _merged(self, kernels: list[Kernel], ops: list[int]) -> tuple[list[Kernel], list[int]]:
        """One of all-reduces that don't wait for each other."""
        depth: dict[int, int] = {}
        level: list[int] = []
        reduces: dict[int, list[int]] = {}
        for k, kernel in enumerate(kernels):
            mine = max((depth.get(t, 0) for t in kernel.reads), default=0)
            is_reduce = self._maker(kernel).kind is Kind.ALL_REDUCE
            if is_reduce:
                reduces.setdefault(mine, []).append(k)
            level.append(mine)
            depth |= dict.fromkeys(kernel.writes, mine + is_reduce)
        groups = [group for same in reduces.values() for group in self._fitting(kernels, same)]
        gone = {k for group in groups for k in group[:-1]}
        for group in groups:
            parts = [kernels[k] for k in group]
            kernels[group[-1]] = Kernel(tuple(sorted({t for p in parts for t in p.reads})),
                                        tuple(t for p in parts for t in p.writes), ())
        return [k for n, k in enumerate(kernels) if n not in gone], [o for n, o in enumerate(ops) if n not in gone]

    def _fitting(self, kernels: Sequence[Kernel], reduces: Sequence[int]) -> list[list[int]]:
        """All-reduces that become one, each group within the bytes that may."""
        groups: list[list[int]] = []
        room = 0.0
        for k in reduces:
            size = sum(self._nodes.tensors[t].bytes for t in kernels[k].writes)
            if not groups or size > room:
                groups.append([])
                room = self._compiler.merges_bytes
            groups[-1].append(k)
            room -= size
        return groups


def _is_wide(nodes: Nodes, node: Node) -> bool:
    """Whether two operands or more are as large as the result: such a node is not run again beside a reader that needs
    it written (`EffectivelyAtMostUnary`). What is made here by reading one such operand may be."""
    if node.kind not in FUSIBLE:
        return True
    size = max(nodes.tensors[t].elements for t in node.results)
    large = [t for t in dict.fromkeys(node.operands) if nodes.tensors[t].elements >= size and not (
        nodes.tensors[t].node >= 0 and nodes.nodes[nodes.tensors[t].node].kind is Kind.BROADCAST)]
    return len(large) > 1


def _by_sources(nodes: Nodes, readers: Sequence[Sequence[int]]) -> list[bool]:
    """Whether a node is made of two or more tensors as large as its result that are surely there: of results of heavy
    and dear nodes and reductions, and of nodes that are themselves made so and have several readers."""
    sources: list[frozenset[int]] = [frozenset({t}) for t in range(len(nodes.tensors))]
    wide: list[bool] = []
    for node in nodes.nodes:
        size = max(nodes.tensors[t].elements for t in node.results)
        found = frozenset(s for t in node.operands for s in sources[t] if nodes.tensors[t].elements >= size)
        wide.append(node.kind not in FUSIBLE or len(found) > 1)
        for t in node.results if node.kind in FUSIBLE and node.kind is not Kind.DEAR else ():
            if node.kind is Kind.BROADCAST or not (wide[-1] and len(readers[t]) > 1):
                sources[t] = found if node.kind is not Kind.BROADCAST else frozenset()
    return wide
