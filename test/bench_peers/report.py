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
    names = ['p50_ms', 'p99_ms', 'max_ms', 'own_p50_ms', 'own_p99_ms']
    rows = [[CONTESTANTS[row['contestant']].title, *(_number(row[name], 1) for name in names)]
            for row in results['latency']]
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


def _plot(results, figure, digits, title, path):
    """Bars of one figure, a panel for each query; all panels have one scale."""
    figures = _medians(results['runs'], 'query', 'contestant')
    queries = [query for query in QUERIES.values() if any(key[0] == query.name for key in figures)]
    names = [name for name in CONTESTANTS if any(key[1] == name for key in figures)][::-1]
    most = max(row[figure] for row in figures.values())
    matplotlib.rcParams.update({'svg.hashsalt': 'bench_peers', 'svg.fonttype': 'none', 'font.size': 9})
    rows = -(-len(queries) // 2)
    canvas, grid = pyplot.subplots(rows, 2, figsize=(9.5, 0.5 + rows * (0.4 + 0.2 * len(names))), squeeze=False,
                                   layout='constrained')
    for axes in grid.flat:
        axes.axis('off')
    for axes, query in zip(grid.flat, queries):
        found = [(name, figures[query.name, name][figure]) for name in names if (query.name, name) in figures]
        bars = axes.barh([CONTESTANTS[name].title for name, _ in found], [value for _, value in found],
                         color=[COLOURS[name] for name, _ in found])
        axes.bar_label(bars, [_number(value, digits) for _, value in found], padding=3)
        axes.set_title(query.title, loc='left', fontsize=9, fontweight='bold')
        axes.set_xlim(0, most * 1.2)
        axes.axis('on')
        axes.set_xticks([])
        axes.tick_params(left=False)
        axes.spines[['top', 'right', 'bottom']].set_visible(False)
    canvas.suptitle(title, x=0.01, ha='left', fontsize=10)
    canvas.savefig(path, metadata={'Date': None})
    pyplot.close(canvas)


def _write_files(results, directory):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, 'results.json'), 'w') as file:
        json.dump(results, file, indent=1)
        file.write('\n')
    _plot(results, 'records_per_second', 0, 'Records per second', os.path.join(directory, 'throughput.svg'))
    _plot(results, 'cpu_s_per_million', 2, 'CPU seconds per million records', os.path.join(directory, 'cpu.svg'))


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
