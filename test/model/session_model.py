#!/usr/bin/env python3
"""What a stream with session windows must do, as stream_model.py for tumbling
ones: same arguments, same lines of output, same rules where this does not say
otherwise.

    A record is a session by itself, [time, time + gap).  Without a gap greater
    than zero it counts as filtered and has no effect.
    It is late when the end of that session <= watermark.
    Sessions of a key that overlap or touch (start <= end) become one.
    Sessions with end <= watermark, the new one, close.
    update: a session that has grown, or is part of another one now, is not the
    session any more that was written: its row leaves the sink.

    session_model.py MODE DELAY         microseconds, \\N without a watermark

reads records by batch instead, and writes the session of each that is not late:

    in:     BATCH TIME GAP KEY ID
    out:    session ID START END
"""

import itertools
import sys

from stream_model import (MILLISECOND, Generator, Record, Stream,
                          main, show)


class SessionStream(Stream):
    def __init__(self, mode, delay, where="true", having="true"):
        super().__init__(mode, None, None, delay, where, having)
        self.closed = []        # (start, end, records)

    def windows(self, record):
        if record.gap is None or record.gap <= 0:
            return None
        return [(record.time, record.time + record.gap)]

    def put(self, record, start, end, touched):
        """Put a record into the session that it makes with all it touches."""
        records = [record]
        for group in list(self.groups):
            if group[2] == record.key and group[0] <= end and start <= group[1]:
                start, end = min(start, group[0]), max(end, group[1])
                records = self.groups.pop(group) + records
                touched.discard(group)
        self.groups[(start, end, record.key)] = records
        touched.add((start, end, record.key))

    def close(self, group):
        self.closed.append(group[:2] + (self.groups.pop(group),))


class SessionGenerator(Generator):
    """Sizes of windows become gaps, fixed or the record's own."""

    def __init__(self, seed):
        super().__init__(seed)
        self.slide, self.sum = self.size, "sum"
        self.fixed = self.random.random() < 0.5

    def new_stream(self):
        return SessionStream(self.mode, self.delay, self.where, self.having)

    def scenario(self):
        gap = "interval '%s'" % self.interval(self.size) if self.fixed else \
            "g * interval '1 millisecond'"
        for name, value in super().scenario():
            if name == "columns":
                value += ", g bigint"
            if name == "query":
                value = value.replace(
                    "tumble(ts, '%s')" % self.interval(self.size),
                    "session(ts, %s)" % gap)
            yield name, value

    def time(self):
        r = self.random
        if self.stream.groups and r.random() < 0.4:
            start, end, _ = r.choice(sorted(self.stream.groups, key=repr))
            return r.choice((start - self.size, start - self.size - 1, start,
                             start + 1, end, end + 1, end - 1))
        return super().time()

    def record(self):
        r = self.random
        record = super().record()
        record.gap = self.size
        if not self.fixed:
            record.gap = r.choice((None, 0, -self.size) + (self.size,) * 12 +
                                  (self.size * 2, self.size // 10) * 3)
        return record

    def batch(self):
        self.size_of_steps()
        return super().batch()

    def size_of_steps(self):
        """Now and then time goes on so little that sessions go on, too."""
        if self.random.random() < 0.5:
            self.head += self.size // 2

    @staticmethod
    def fields(record):
        gap = None if record.gap is None else record.gap // MILLISECOND
        return Generator.fields(record) + (("g", gap, str),)


def number(text):
    return None if text == "\\N" else int(text)


def assign(mode, delay):
    """The sessions of records from the standard input."""
    stream = SessionStream(mode, number(delay))
    lines = (line.rstrip("\n").split("\t") for line in sys.stdin)
    for _, batch in itertools.groupby(lines, key=lambda line: line[0]):
        records = []
        for _, time, gap, key, name in batch:
            record = Record(number(time), key, None, None)
            record.gap, record.name = number(gap), name
            records.append(record)
        stream.run(records)
    for group in list(stream.groups):
        stream.close(group)
    for start, end, records in stream.closed:
        for record in records:
            show("session", record.name, start, end)


if __name__ == "__main__":
    if len(sys.argv) == 3 and not sys.argv[1].isdigit():
        assign(*sys.argv[1:])
    else:
        main(SessionGenerator, __doc__)
