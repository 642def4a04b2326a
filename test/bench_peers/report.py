"""Tables and plots of a results file: printed, written to build/bench_peers and, to
publish them, into doc/.  By itself, report.py FILE writes them again."""

import json
import os
import re
import sys
from statistics import median

import matplotlib
matplotlib.use('svg')
from matplotlib import pyplot

from contestants import CONTESTANTS
from queries import QUERIES

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
PAGE = os.path.join(TOP, 'doc', 'performance.md')
MARKS = '<!-- results: written by make bench-peers -->', '<!-- end of results -->'
COLOURS = {'bare': '#9aa5b1', 'by_hand': '#616e7c', 'stream_agg': '#2f6fb2', 'spark': '#d97a2b',
           'flink': '#c2407a', 'copy': '#5a9e6f'}


def _medians(rows, *keys):
    """Of rows with the same keys, the median of each figure."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return {group: {name: median(row[name] for row in members)
                    for name in members[0] if name not in keys and members[0][name] is not None}
            for group, members in groups.items()}


def _number(value, digits=0):
    return '' if value is None else f'{value:,.{digits}f}'


def _table(head, rows):
    return '\n'.join(['| ' + ' | '.join(head) + ' |', '|---' + '|---:' * (len(head) - 1) + '|',
                      *('| ' + ' | '.join(row) + ' |' for row in rows)])


def _throughput(results):
    """A table for each query."""
    figures = _medians(results['runs'], 'query', 'contestant')
    for query in QUERIES.values():
        rows = []
        for contestant in CONTESTANTS.values():
            found = figures.get((query.name, contestant.name))
            if found:
                rows.append([contestant.title, _number(found['records_per_second']),
                             _number(found['cpu_s_per_million'], 2), _number(found['peak_mb']),
                             _number(found.get('wal_mb'), 1)])
        if rows:
            title = query.title[0].upper() + query.title[1:]
            yield f'**{title}**\n\n' + _table(
                ['', 'records/s', 'CPU s per million records', 'peak memory, MB', 'WAL, MB'], rows)


def _latency(results):
    figures = _medians(results['latency'], 'contestant')
    names = ['p50_ms', 'p99_ms', 'max_ms', 'own_p50_ms', 'own_p99_ms']
    rows = [[contestant.title, *(_number(figures[contestant.name,][name], 1) for name in names)]
            for contestant in CONTESTANTS.values() if (contestant.name,) in figures]
    if rows:
        yield (f"**From produce to visible at {results['latency_rate']:,} records/s**, ms; on the right less "
               'the producer\'s acknowledgement\n\n' +
               _table(['', 'p50', 'p99', 'maximum', 'own p50', 'own p99'], rows))


def _markdown(results):
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    yield (f"{results['date']}, {results['machine']}; {versions}. {results['records']:,} records in each topic, "
           f"medians of {results['rounds']} rounds of `{results['command']}`.")
    yield from _throughput(results)
    yield from _latency(results)


def _plot(results, figure, label, path):
    """Bars of one figure, a group for each query, to the scale of a logarithm."""
    figures = _medians(results['runs'], 'query', 'contestant')
    queries = [query for query in QUERIES if any(key[0] == query for key in figures)]
    names = [name for name in CONTESTANTS if any(key[1] == name for key in figures)]
    matplotlib.rcParams.update({'svg.hashsalt': 'bench_peers', 'svg.fonttype': 'none', 'font.size': 9})
    canvas, axes = pyplot.subplots(figsize=(9, 3.6), layout='constrained')
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        axes.bar([at + (i - (len(names) - 1) / 2) * width for at in range(len(queries))],
                 [figures.get((query, name), {}).get(figure, 0) for query in queries],
                 width, label=CONTESTANTS[name].title, color=COLOURS[name])
    axes.set_xticks(range(len(queries)), [query.replace('_', ' ') for query in queries])
    axes.set_yscale('log')
    axes.set_ylabel(label)
    axes.grid(axis='y', linewidth=0.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    canvas.legend(loc='outside upper center', ncols=len(names), frameon=False)
    canvas.savefig(path, metadata={'Date': None})
    pyplot.close(canvas)


def _write_files(results, directory):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, 'results.json'), 'w') as file:
        json.dump(results, file, indent=1)
        file.write('\n')
    _plot(results, 'records_per_second', 'records/s', os.path.join(directory, 'throughput.svg'))
    _plot(results, 'cpu_s_per_million', 'CPU s per million records', os.path.join(directory, 'cpu.svg'))


def write(results, publish):
    text = '\n\n'.join(_markdown(results))
    print('\n' + text)
    _write_files(results, os.path.join(TOP, 'build', 'bench_peers', 'results'))
    if publish:
        _write_files(results, os.path.join(TOP, 'doc', 'performance'))
        plots = '![Records per second](performance/throughput.svg)\n\n![CPU time](performance/cpu.svg)'
        with open(PAGE) as file:
            page = file.read()
        begin, end = map(re.escape, MARKS)
        page = re.sub(f'(?<={begin}\n).*?(?={end})', lambda _: f'\n{text}\n\n{plots}\n\n', page, flags=re.S)
        with open(PAGE, 'w') as file:
            file.write(page)


if __name__ == '__main__':
    with open(sys.argv[1]) as source:
        write(json.load(source), bool(os.environ.get('PUBLISH')))
