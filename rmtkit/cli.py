"""Command line: python -m rmtkit bench data | bench memory | stream."""

from __future__ import annotations

import argparse
import json
import sys

from rmtkit.bench import BENCHMARKS, stream_once
from rmtkit.config import resolve


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a wrong value is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m rmtkit", description="Recurrent Memory Transformers and BABILong")
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="measure; the last line is JSON")
    bench.add_argument("name", choices=sorted(BENCHMARKS))
    stream = commands.add_parser("stream", help="answer one long sample; the last line is JSON")
    stream.add_argument("--num_tokens", type=int, default=1_000_000)
    for command in (bench, stream):
        command.epilog = "Any field of rmtkit.config.Config can be given as --NAME=VALUE."
    known, rest = parser.parse_known_args(arguments)
    try:
        config = resolve(_overrides(rest))
        result = BENCHMARKS[known.name](config) if known.command == "bench" else stream_once(config, known.num_tokens)
    except ValueError as error:
        print(f"rmtkit: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


def _overrides(arguments: list[str]) -> dict[str, str]:
    """Read --name=value or --name value. Raises: ValueError for anything else."""
    found, waiting = {}, list(arguments)
    while waiting:
        name, separator, value = waiting.pop(0).partition("=")
        if not name.startswith("--") or not (separator or waiting):
            raise ValueError(f"unexpected argument {name!r}; options are --NAME=VALUE")
        found[name.removeprefix("--")] = value if separator else waiting.pop(0)
    return found
