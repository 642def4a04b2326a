"""What a contestant costs, read from /proc: wall time, CPU time and memory of a
tree of processes between two moments."""

import os
import time
from dataclasses import dataclass

_TICKS = os.sysconf('SC_CLK_TCK')


@dataclass
class Cost:
    seconds: float
    cpu_seconds: float
    peak_mb: float


def _stat(pid):
    """Parent, and CPU seconds of a process and of its children that have ended."""
    with open(f'/proc/{pid}/stat') as file:
        fields = file.read().rpartition(')')[2].split()
    return int(fields[1]), sum(map(int, fields[11:15])) / _TICKS


def _peak_mb(pid):
    with open(f'/proc/{pid}/status') as file:
        for line in file:
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) / 1024
    return 0.0


def _processes(roots):
    """CPU seconds by process, for the roots and all that descend from them."""
    parents, cpu = {}, {}
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                parents[int(name)], cpu[int(name)] = _stat(name)
            except (FileNotFoundError, ProcessLookupError):
                pass

    def belongs(pid):
        while pid and pid not in roots:
            pid = parents.get(pid)
        return bool(pid)
    return {pid: cpu[pid] for pid in cpu if belongs(pid)}


class Meter:
    """From its creation to stop().  CPU time is that of all processes.  Memory is
    the sum of the peaks of the processes that are there at the end; with a server
    that was there before, of those that have come since `before`."""

    def __init__(self, roots, before=frozenset()):
        self._roots = frozenset(roots)
        self._before = before
        self._cpu = sum(_processes(self._roots).values())
        self._started = time.monotonic()

    @staticmethod
    def present(root):
        return frozenset(_processes(frozenset([root])))

    def stop(self, seconds=None):
        """The costs; of the time, the caller's reading if there is one."""
        elapsed = time.monotonic() - self._started
        processes = _processes(self._roots)
        peak = 0.0
        for pid in processes.keys() - self._before:
            try:
                peak += _peak_mb(pid)
            except (FileNotFoundError, ProcessLookupError):
                pass
        return Cost(seconds or elapsed, sum(processes.values()) - self._cpu, peak)
