#!/usr/bin/env python3
"""Stops and continues processes at random: disturb.py ROOT PROGRAM [SEED]

Of all processes below the process ROOT those count that run PROGRAM. One after the other stands still for up to 80 ms,
with pauses of up to 200 ms. Ends with ROOT. Linux only."""
import os
import random
import signal
import sys
import time


def processes():
    """Parents by process."""
    parents = {}
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", encoding="latin1") as file:
                # The name of the program stands in parentheses, and may hold some itself.
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (ValueError, OSError):
            continue
    return parents


def runs(pid, program):
    try:
        return os.path.samefile(f"/proc/{pid}/exe", program)
    except OSError:
        return False


def below(root, program):
    parents = processes()
    if root not in parents:
        sys.exit(0)

    def descends(pid):
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return [pid for pid in parents if pid != root and descends(pid) and runs(pid, program)]


def main():
    root, program = int(sys.argv[1]), sys.argv[2]
    dice = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else None)
    while True:
        victims = below(root, program)
        if victims:
            victim = dice.choice(victims)
            try:
                os.kill(victim, signal.SIGSTOP)
                time.sleep(dice.uniform(0, 0.08))
                os.kill(victim, signal.SIGCONT)
            except ProcessLookupError:
                pass
        time.sleep(dice.uniform(0, 0.2))


if __name__ == "__main__":
    main()
