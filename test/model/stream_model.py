#!/usr/bin/env python3
"""What a stream must do with a sequence of batches, as a small program.

It is the oracle for batches with late records, where the sink is not simply
the result of the query over all records.  It shares nothing with src/: it
keeps the records of each group in a list and computes everything anew.

    stream_model.py SEED [--size N]

makes a random scenario of that seed and prints it, and what must come of it,
as lines of tab-separated fields.  With --size the records are cut into batches
of N, without into those that they were made in; 0 is one batch of all.

    scenario  NAME  VALUE              columns, query, mode, watermark
    record    BATCH PARTITION JSON     to be produced, in this order
    restart   BATCH                    restart the stream before this batch
    commit    BATCH + columns COMMIT   what stream_agg.commits must say
    row       BATCH + columns ROW      the sink after that batch, unordered

NULL is \\N, times are microseconds since 1970-01-01 00:00 UTC.  The rules:

    A record goes through WHERE first; what WHERE removes has no effect.
    A record without an event time is counted and has no further effect.
    Windows start at multiples of the slide; where it is less than their size
    they overlap, and a record belongs to several.  Where it is greater a record
    may belong to none: it counts as filtered, after it has moved the watermark.
    A window [start, end) is late when end <= watermark, the one that the
    commit *before* left.  A record that is late for all of its windows is
    counted and goes no further; one that is late for some counts in the others.
    late_windows counts pairs of a record and a window it was late for.
    Then the watermark becomes the greatest event time, floored to
    milliseconds, less the delay, unless that would be a step back.  It starts
    at 1970-01-01.
    update: every group the batch touched is written, or removed if it does
    not pass HAVING.  append: nothing yet.
    Windows with end <= watermark, the new one, close: append writes their
    groups now, and then they are forgotten.
    complete: nothing is late and no window closes.  The sink becomes the
    result over all records; rows that differ are written.
"""

import argparse
import random
from decimal import Decimal

COMMIT = ("delivered", "aggregated", "late", "null_time", "filtered",
          "rows_out", "rows_removed", "watermark", "late_windows")
ROW = ("window start", "window end", "k", "n", "n_large", "total", "least",
       "greatest", "price")

MILLISECOND = 1000
SECOND = 1000 * MILLISECOND
DAY = 86400 * SECOND


class Record:
    """time: microseconds or None; key: text or None; value: int or None;
    price: Decimal or None."""

    def __init__(self, time, key, value, price):
        self.time, self.key = time, key
        self.value, self.price = value, price


class Conditions:
    """The query's WHERE and HAVING in SQL, and as functions."""

    WHERE = {
        "true": lambda r: True,
        "v % 3 <> 0": lambda r: r.value is not None and r.value % 3 != 0,
        "k IS NOT NULL": lambda r: r.key is not None,
        "v > 0 OR k = 'a'": lambda r: (r.value is not None and r.value > 0)
        or r.key == "a",
    }
    HAVING = {
        "true": lambda group: True,
        "count(*) % 2 = 1": lambda group: len(group) % 2 == 1,
        "sum(v) > 5": lambda group: (total(group) or 0) > 5,
        "count(*) < 3": lambda group: len(group) < 3,
    }


def values(group):
    return [r.value for r in group if r.value is not None]


def total(group):
    return sum(values(group)) if values(group) else None


class Stream:
    """A running stream.  mode: append, update or complete; size and slide: of
    the windows, microseconds; delay: of the watermark, microseconds, or None for
    a stream without a watermark."""

    def __init__(self, mode, size, slide, delay, where="true", having="true"):
        self.mode, self.size, self.delay = mode, size, delay
        self.slide = slide
        self.where = Conditions.WHERE[where]
        self.having = Conditions.HAVING[having]
        self.watermark = None if delay is None else 0
        self.groups = {}        # (start, end, key) -> records; open windows
        self.sink = {}          # the same -> a tuple of ROW's columns

    def passed(self, end):
        """Whether the watermark has passed a window that ends then."""
        return self.mode != "complete" and self.watermark is not None and \
            end <= self.watermark

    def windows(self, record):
        """The windows, as (start, end), that hold a record with a time; None
        for one that is to have no effect."""
        start = record.time - record.time % self.slide
        windows = []
        while start > record.time - self.size:
            windows.append((start, start + self.size))
            start -= self.slide
        return windows

    def run(self, records):
        """Run one batch.  Returns its commit: a dict of COMMIT's columns."""
        counts = dict.fromkeys(COMMIT, 0)
        counts["delivered"] = len(records)
        before = list(self.groups)
        touched = self.aggregate(records, counts)
        if self.mode == "update":
            for group in before:
                if group not in self.groups and self.sink.pop(group, None):
                    counts["rows_removed"] += 1
            for group in sorted(touched, key=repr):
                self.write(group, counts)
        if self.mode == "complete":
            self.write_all(counts)
        for group in [g for g in self.groups if self.passed(g[1])]:
            if self.mode == "append":
                self.write(group, counts)
            self.close(group)
        counts["watermark"] = self.watermark
        return counts

    def aggregate(self, records, counts):
        """Put records into groups, then move the watermark.  Returns the
        groups touched."""
        touched = set()
        greatest = None
        for record in records:
            if not self.where(record):
                counts["filtered"] += 1
                continue
            if record.time is None:
                counts["null_time"] += 1
                continue
            windows = self.windows(record)
            if windows is None:
                counts["filtered"] += 1
                continue
            if greatest is None or record.time > greatest:
                greatest = record.time
            open_ones = [w for w in windows if not self.passed(w[1])]
            counts["late_windows"] += len(windows) - len(open_ones)
            if not windows:
                counts["filtered"] += 1
            elif not open_ones:
                counts["late"] += 1
            else:
                counts["aggregated"] += 1
            for start, end in open_ones:
                self.put(record, start, end, touched)
        if self.watermark is not None and greatest is not None:
            floored = greatest - greatest % MILLISECOND
            self.watermark = max(self.watermark, floored - self.delay)
        return touched

    def put(self, record, start, end, touched):
        """A record into one of its windows."""
        group = (start, end, record.key)
        self.groups.setdefault(group, []).append(record)
        touched.add(group)

    def close(self, group):
        """The watermark has passed a group."""
        del self.groups[group]

    def write(self, group, counts):
        """A group's row into the sink, or out of it."""
        records = self.groups[group]
        if self.having(records):
            self.sink[group] = self.row(group, records)
            counts["rows_out"] += 1
        elif self.sink.pop(group, None) is not None:
            counts["rows_removed"] += 1

    def write_all(self, counts):
        """Make the sink equal to the rows of all groups."""
        result = {group: self.row(group, records)
                  for group, records in self.groups.items()
                  if self.having(records)}
        counts["rows_out"] = len([g for g in result
                                  if self.image(self.sink.get(g)) !=
                                  self.image(result[g])])
        counts["rows_removed"] = len(set(self.sink) - set(result))
        self.sink = result

    @staticmethod
    def image(row):
        """What a row looks like: 1.0 and 1.00 are equal and look otherwise."""
        return row and tuple(str(column) for column in row)

    @staticmethod
    def row(group, records):
        prices = [r.price for r in records if r.price is not None]
        return group + (len(records),
                        len([v for v in values(records) if v > 5]),
                        total(records), min(values(records), default=None),
                        max(values(records), default=None),
                        sum(prices, Decimal(0)) if prices else None)


class Generator:
    """Random batches for a stream, from times that are apt to go wrong."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        r = self.random
        self.mode = r.choice(("append", "update", "complete"))
        self.size = r.choice((SECOND, 7 * SECOND, 60 * SECOND,
                              250 * MILLISECOND, DAY))
        self.slide = r.choice((self.size, self.size, self.size // 2,
                               self.size // 5, self.size * 2 // 5,
                               self.size * 3 // 2))
        # an aggregate that can combine states, and one that cannot
        self.sum = r.choice(("sum", "sum", "plain_sum"))
        self.delay = r.choice((0, self.size, self.size // 2, 3 * self.size,
                               self.size * 3 // 2 + 7 * MILLISECOND))
        if self.mode != "append" and r.random() < 0.25:
            self.delay = None
        self.where = r.choice(sorted(Conditions.WHERE))
        self.having = r.choice(sorted(Conditions.HAVING))
        # the head of the stream: before, around and long after 1970
        self.head = r.choice((-20 * self.size, 0, 19723 * DAY,
                              19723 * DAY + 1234567))
        self.stream = self.new_stream()

    def new_stream(self):
        """The stream that the batches are for."""
        return Stream(self.mode, self.size, self.slide, self.delay,
                      self.where, self.having)

    def interval(self, us):
        return "%d milliseconds" % (us // MILLISECOND)

    def scenario(self):
        """Name and value of everything the stream is made from."""
        yield "columns", "ts timestamptz, k text, v bigint, price numeric"
        window = ("tumble(ts, '%s')" % self.interval(self.size)
                  if self.slide == self.size else "hop(ts, '%s', '%s')"
                  % (self.interval(self.slide), self.interval(self.size)))
        yield "query", (
            "SELECT stream_agg.%s AS win, k, count(*) AS n,"
            " count(*) FILTER (WHERE v > 5) AS n_large, sum(v) AS total,"
            " min(v) AS least, max(v) AS greatest, %s(price) AS price"
            " FROM %%s WHERE %s GROUP BY 1, k HAVING %s"
            % (window, self.sum, self.where.replace("%", "%%"),
               self.having.replace("%", "%%")))
        yield "mode", self.mode
        if self.delay is not None:
            yield "watermark", self.interval(self.delay)

    def time(self):
        r = self.random
        kind = r.random()
        if kind < 0.06:
            return None
        if kind < 0.30:         # an edge of a window, and around it
            edge = self.head - self.head % self.slide
            return edge + r.randrange(-2, 3) * r.choice(
                (self.size, self.slide)) + r.choice((-1, 0, 0, 1))
        if kind < 0.50 and self.stream.watermark is not None:
            return self.stream.watermark + r.choice(
                (-self.size, -MILLISECOND, -1, 0, 0, 1, MILLISECOND))
        if kind < 0.55:         # far too late
            return self.head - r.randrange(20) * self.size
        return self.head + r.randrange(-2 * self.size, self.size)

    def record(self):
        r = self.random
        return Record(
            self.time(),
            r.choice((None, "a", "b", "c", "\u00e4 \"quoted\" \\")),
            None if r.random() < 0.15 else r.randrange(-10, 11),
            None if r.random() < 0.15 else
            Decimal(r.randrange(-9999, 10000)).scaleb(-r.randrange(4)))

    def batch(self):
        """The records of a batch.  The head goes on while they are made, at
        times by more than the delay."""
        r = self.random
        records = [self.record() for _ in range(r.choice((1, 3, 10, 40)))]
        self.head += r.choice((0, self.size // 3, self.size,
                               2 * self.size + (self.delay or 0)))
        self.stream.run(records)
        return records

    @staticmethod
    def fields(record):
        """Name, value and text of each field."""
        return (("ts", record.time, timestamp), ("k", record.key, quote),
                ("v", record.value, str),
                ("price", record.price, "{:f}".format))


def timestamp(us):
    """A time as a JSON string, ISO 8601 in UTC."""
    days, rest = divmod(us, DAY)
    seconds, fraction = divmod(rest, SECOND)
    year, month, day = civil(days)
    return '"%04d-%02d-%02dT%02d:%02d:%02d.%06dZ"' % (
        year, month, day, seconds // 3600, seconds // 60 % 60, seconds % 60,
        fraction)


def civil(days):
    """Date of a day counted from 1970-01-01, in the Gregorian calendar."""
    days += 719468
    era, doe = divmod(days, 146097)
    yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    month = mp + 3 if mp < 10 else mp - 9
    return (yoe + era * 400 + (month <= 2), month,
            doy - (153 * mp + 2) // 5 + 1)


def quote(text):
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')


def json_of(fields, r):
    """A record as JSON.  NULL is null or a field that is missing; a time of
    whole milliseconds may be a number.  By hand, so that a price keeps its
    digits."""
    members = []
    for name, value, text in fields:
        if value is None:
            if r.random() < 0.5:
                members.append('"%s":null' % name)
        elif name == "ts" and value % MILLISECOND == 0 and r.random() < 0.3:
            members.append('"ts":%d' % (value // MILLISECOND))
        else:
            members.append('"%s":%s' % (name, text(value)))
    r.shuffle(members)
    return "{%s}" % ",".join(members)


def field(value):
    if value is None:
        return "\\N"
    if isinstance(value, Decimal):
        return "{:f}".format(value)
    return str(value)


def show(*fields):
    print("\t".join(field(f) for f in fields))


def main(generator_class, description):
    parser = argparse.ArgumentParser(
        description=description.split("\n", maxsplit=1)[0])
    parser.add_argument("seed", type=int)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--size", type=int)
    args = parser.parse_args()

    generator = generator_class(args.seed)
    r = generator.random
    for name, value in generator.scenario():
        show("scenario", name, value)
    batches = [generator.batch() for _ in range(args.batches)]
    if args.size is not None:
        records = [record for batch in batches for record in batch]
        size = args.size or len(records)
        batches = [records[i:i + size] for i in range(0, len(records), size)]

    stream = generator.new_stream()
    for batch, records in enumerate(batches):
        for record in records:
            show("record", batch, r.randrange(args.partitions),
                 json_of(generator.fields(record), r))
        if batch > 0 and r.random() < 0.2:
            show("restart", batch)
        commit = stream.run(records)
        show("commit", batch, *(commit[c] for c in COMMIT))
        for row in stream.sink.values():
            show("row", batch, *row)


if __name__ == "__main__":
    main(Generator, __doc__)
