"""Breadth-first search over every reachable state, so that each trace is a shortest one."""

from array import array
from time import monotonic
from typing import NamedTuple

from tests.model.protocol import Protocol
from tests.model.states import END, LIMIT, Config, State, ViolationError

Job = tuple[Config, str]
"""A configuration, and the rule that is omitted; empty for none."""


class Result(NamedTuple):
    """What an exploration found."""

    config: Config
    mutation: str
    states: int
    seconds: float
    invariant: str
    """The broken one; empty if all hold."""
    trace: tuple[str, ...]
    """The steps that lead to it."""


def explore(job: Job) -> Result:
    """Explore a configuration until an invariant breaks, or to the end."""
    began = monotonic()
    found = _Exploration(*job)
    invariant, at, violated = found.search()
    trace = found.trace_to(at, violated=violated) if invariant else ()
    return Result(*job, len(found.states), monotonic() - began, invariant, trace)


def canonical(s: State) -> State:
    """The state, or its mirror image: the two relays are interchangeable."""
    if s.relays[1] < s.relays[0]:
        txns = (t._replace(owner=1 - t.owner) if t.owner >= 0 else t for t in s.kafka.txns)
        return State(s.db, s.kafka._replace(txns=tuple(sorted(txns))), (s.relays[1], s.relays[0]))
    return s


class _Exploration:
    """The states found so far, how each was reached, and the fault-free edges."""

    def __init__(self, config: Config, mutation: str) -> None:
        self._protocol, self._limit = Protocol(config, mutation), config.limit
        first = canonical(self._protocol.start())
        self.states, self._index = [first], {first: 0}
        self._parent = array("i", [-1])
        self._sources, self._targets = array("i"), array("i")  # of fault-free edges
        self._shared: dict[object, object] = {}  # equal parts are kept once

    def search(self) -> tuple[str, int, bool]:
        """The broken invariant or "", the state where it breaks, and whether a step from there breaks it."""
        n = 0
        try:
            while n < len(self.states):
                self._expand(n)
                n += 1
                if n > self._limit:
                    return LIMIT, n - 1, False
        except ViolationError as violation:
            return violation.invariant, n, True
        stuck = self._first_stuck()
        return (END, stuck, False) if stuck >= 0 else ("", -1, False)

    def _expand(self, n: int) -> None:
        for _, fault_free, successor in self._protocol.successors(self.states[n]):
            new = canonical(successor)
            m = self._index.get(new)
            if m is None:
                m = len(self.states)
                new = State(*(self._shared.setdefault(part, part) for part in new))  # type: ignore[arg-type]
                self._index[new] = m
                self.states.append(new)
                self._parent.append(n)
            if fault_free:
                self._sources.append(n)
                self._targets.append(m)

    def _first_stuck(self) -> int:
        """The first state from which no fault-free path leads to the end, or -1."""
        begin, back = self._edges_backwards()
        reaches = bytearray(len(self.states))
        stack = [n for n, s in enumerate(self.states) if self._protocol.ended(s)]
        for n in stack:
            reaches[n] = 1
        while stack:
            m = stack.pop()
            for n in back[begin[m] : begin[m + 1]]:
                if not reaches[n]:
                    reaches[n] = 1
                    stack.append(n)
        return reaches.find(0)

    def _edges_backwards(self) -> tuple["array[int]", "array[int]"]:
        """For each state, where in the second array its fault-free predecessors begin."""
        begin = array("i", bytes(4 * (len(self.states) + 1)))
        for m in self._targets:
            begin[m + 1] += 1
        for m in range(len(self.states)):
            begin[m + 1] += begin[m]
        fill, back = array("i", begin), array("i", bytes(4 * len(self._sources)))
        for n, m in zip(self._sources, self._targets, strict=True):
            back[fill[m]] = n
            fill[m] += 1
        return begin, back

    def trace_to(self, n: int, *, violated: bool) -> tuple[str, ...]:
        """The steps to state n, and the violating step; each relay keeps its number."""
        path = []
        while n > 0:
            path.append(n)
            n = self._parent[n]
        here, steps = self._protocol.start(), []
        for m in reversed(path):
            wanted = self.states[m]
            label, here = next(
                (lab, new) for lab, _, new in self._protocol.successors(here) if canonical(new) == wanted
            )
            steps.append(label)
        if violated:
            try:
                list(self._protocol.successors(here))
            except ViolationError as violation:
                steps.append(violation.label)
        return tuple(" ".join(map(str, label)) for label in steps)
