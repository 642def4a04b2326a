#!/usr/bin/env python3
"""What SELECT DISTINCT ON (...) must do with a sequence of batches.

The oracle of rows_deduplication.pl.  It shares nothing with src/.

    deduplication_model.py DELAY        microseconds

reads records in the order of their processing, and writes what comes of them,
as lines of tab-separated fields; times are microseconds since 1970, \\N is NULL:

    in:     BATCH TIME KEY ID
    out:    row BATCH ID                              it is in the sink
            commit BATCH AGGREGATED LATE NULL_TIME FILTERED WATERMARK KEYS

The rules:

    A record without an event time is counted and has no further effect.
    A record is late when its time <= watermark, the one that the commit *before*
    left.
    Of the others the first of a key passes, and its key expires at its time +
    delay; what repeats a key that has not expired is filtered, and does not
    extend that.
    Then the watermark becomes the greatest event time, floored to milliseconds,
    less the delay, unless that would be a step back.  It starts at 1970-01-01.
    Keys expire when the watermark reaches their expiry.
"""

import itertools
import sys

MILLISECOND = 1000


class Stream:
    def __init__(self, delay):
        self.delay = delay
        self.watermark = 0
        self.expires = {}       # key -> event time + delay

    def run(self, records):
        """records: (time, key, id).  Returns the ids that pass and the counts."""
        passed, late, null_time, filtered, greatest = [], 0, 0, 0, None
        for time, key, name in records:
            if time is None:
                null_time += 1
                continue
            greatest = time if greatest is None else max(greatest, time)
            if time <= self.watermark:
                late += 1
            elif key in self.expires:
                filtered += 1
            else:
                self.expires[key] = time + self.delay
                passed.append(name)
        if greatest is not None:
            floored = greatest - greatest % MILLISECOND
            self.watermark = max(self.watermark, floored - self.delay)
        self.expires = {key: expiry for key, expiry in self.expires.items()
                        if expiry > self.watermark}
        return passed, (len(passed), late, null_time, filtered)


def main():
    stream = Stream(int(sys.argv[1]))
    lines = (line.rstrip("\n").split("\t") for line in sys.stdin)
    for batch, records in itertools.groupby(lines, key=lambda line: line[0]):
        passed, counts = stream.run(
            (None if time == "\\N" else int(time), key, name)
            for _, time, key, name in records)
        for name in passed:
            print("row", batch, name, sep="\t")
        print("commit", batch, *counts, stream.watermark, len(stream.expires), sep="\t")


if __name__ == "__main__":
    main()
