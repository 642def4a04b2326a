#!/usr/bin/env python3
"""What a stream with session windows must do, as stream_model.py for tumbling
ones: same lines of output, same rules where this does not say otherwise.

    session_model.py SEED [--size N]

With --size the records are cut into batches of N, without into those that they
were made in; 0 is one batch of all.

    A record is a session by itself, [time, time + gap).  Without a gap greater
    than zero it counts as filtered and has no effect.
    It is late when the end of that session <= watermark.
    Sessions of a key that overlap or touch (start <= end) become one.
    Sessions with end <= watermark, the new one, close.
    update: a session that has grown, or is part of another one now, is not the
    session any more that was written: its row leaves the sink.
"""

import argparse

from stream_model import (COMMIT, MILLISECOND, ROW, Conditions, Generator,
                          Stream, json_of, show)

SESSION_ROW = ("window start", "window end") + ROW[1:]


class SessionStream(Stream):
    """groups and sink are keyed by (start, end, key)."""

    def __init__(self, mode, delay):
        super().__init__(mode, None, None, delay)

    def ended(self, end):
        """Whether the watermark has passed a session that ends then."""
        return self.mode != "complete" and self.watermark is not None and \
            end <= self.watermark

    def run(self, records):
        counts = dict.fromkeys(COMMIT, 0)
        counts["delivered"] = len(records)
        before = set(self.groups)
        touched = self.aggregate(records, counts)
        if self.mode == "update":
            for group in before - set(self.groups):
                if self.sink.pop(group, None) is not None:
                    counts["rows_removed"] += 1
            for group in touched:
                self.write(group, counts)
        if self.mode == "complete":
            self.write_all(counts)
        for group in [g for g in self.groups if self.ended(g[1])]:
            if self.mode == "append":
                self.write(group, counts)
            del self.groups[group]
        counts["watermark"] = self.watermark
        return counts

    def aggregate(self, records, counts):
        touched = set()
        greatest = None
        for record in records:
            if not self.where(record):
                counts["filtered"] += 1
                continue
            if record.time is None:
                counts["null_time"] += 1
                continue
            if record.gap is None or record.gap <= 0:
                counts["filtered"] += 1
                continue
            if greatest is None or record.time > greatest:
                greatest = record.time
            if self.ended(record.time + record.gap):
                counts["late"] += 1
                counts["late_windows"] += 1
                continue
            counts["aggregated"] += 1
            self.merge(record, touched)
        if self.watermark is not None and greatest is not None:
            floored = greatest - greatest % MILLISECOND
            self.watermark = max(self.watermark, floored - self.delay)
        return touched

    def merge(self, record, touched):
        """Put a record into the session that it makes with all it touches."""
        start, end, records = record.time, record.time + record.gap, [record]
        for group in list(self.groups):
            if group[2] == record.key and group[0] <= end and start <= group[1]:
                start, end = min(start, group[0]), max(end, group[1])
                records = self.groups.pop(group) + records
                touched.discard(group)
        self.groups[(start, end, record.key)] = records
        touched.add((start, end, record.key))

    @staticmethod
    def row(group, records):
        return (group[0], group[1]) + Stream.row((group[0], group[2]), records)[1:]


class SessionGenerator(Generator):
    """Sizes of windows become gaps, fixed or the record's own."""

    def __init__(self, seed):
        super().__init__(seed)
        self.slide, self.sum = self.size, "sum"
        self.fixed = self.random.random() < 0.5
        self.stream = self.new_stream()

    def new_stream(self):
        stream = SessionStream(self.mode, self.delay)
        stream.where = Conditions.WHERE[self.where]
        stream.having = Conditions.HAVING[self.having]
        return stream

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


def json_with_gap(record, r):
    text = json_of(record, r)
    if record.gap is None:
        return text
    return '{"g":%d%s' % (record.gap // MILLISECOND,
                          text[1:] if text == "{}" else "," + text[1:])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("seed", type=int)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--size", type=int)
    args = parser.parse_args()

    generator = SessionGenerator(args.seed)
    r = generator.random
    for name, value in generator.scenario():
        show("scenario", name, value)
    batches = []
    for _ in range(args.batches):
        batches.append(generator.batch())
        generator.stream.run(batches[-1])
    if args.size is not None:
        records = [record for batch in batches for record in batch]
        size = args.size or len(records)
        batches = [records[i:i + size] for i in range(0, len(records), size)]

    stream = generator.new_stream()
    for batch, records in enumerate(batches):
        for record in records:
            show("record", batch, r.randrange(args.partitions),
                 json_with_gap(record, r))
        commit = stream.run(records)
        show("commit", batch, *(commit[c] for c in COMMIT))
        for row in stream.sink.values():
            show("row", batch, *row)


if __name__ == "__main__":
    main()
