"""`mooncake COMMAND …`: the command line for people. docs/cli.md describes it.

Commands that only look ask the master's admin server; get, put, rm and bench are clients of the store for a moment. Imports are those of
the command that runs, so that `mooncake status` works where the extension module does not load.
"""

import argparse
import importlib
import os
import signal
import sys

from .cli_text import INTERRUPTED, Failure


def _defaults():
    """Where the master is: MOONCAKE_MASTER and MOONCAKE_ADMIN, or its host and MOONCAKE_MASTER_METRICS_PORT."""
    master = os.environ.get("MOONCAKE_MASTER") or "127.0.0.1:50051"
    host = "127.0.0.1" if master.startswith("unix:") else master.rpartition(":")[0] or master
    port = os.environ.get("MOONCAKE_MASTER_METRICS_PORT") or "9003"
    return master, os.environ.get("MOONCAKE_ADMIN") or f"{host}:{port}"


def _positive(text):
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError
    return value


def _count(text):
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _some(text):
    value = int(text)
    if not 1 <= value <= 256:
        raise ValueError
    return value


_positive.__name__, _count.__name__, _some.__name__ = "number of seconds", "number", "number from 1 to 256"


def _common():
    """Options of every command, before or after its name."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--admin", metavar="HOST:PORT", help="admin server of the master, or https://HOST:PORT (MOONCAKE_ADMIN; default: the master's host, 9003)")
    common.add_argument("--master", metavar="HOST:PORT", help="the master (MOONCAKE_MASTER; default: 127.0.0.1:50051)")
    common.add_argument("--timeout", type=_positive, metavar="SECONDS", help="how long to wait for an answer (default: 10)")
    common.add_argument("--json", action="store_true", help="print JSON")
    return common


# ---- the commands' options ----


def _add_status(parser):
    del parser


def _add_keys(parser):
    parser.add_argument("pattern", nargs="?", help="what keys begin with")
    parser.add_argument("-e", "--regex", action="store_true", help="the pattern is a regular expression, searched for")
    parser.add_argument("-l", "--long", action="store_true", help="sizes and places, too")
    parser.add_argument("-c", "--count", action="store_true", help="only how many")
    parser.add_argument("-n", "--limit", type=_count, metavar="N", help="N keys at most")


def _add_get(parser):
    parser.add_argument("key")
    parser.add_argument("-o", "--output", metavar="FILE", help="instead of stdout")


def _add_put(parser):
    parser.add_argument("key")
    parser.add_argument("file", nargs="?", help="what to store; default, and -: stdin")
    parser.add_argument("-t", "--text", help="the value itself")
    parser.add_argument("-u", "--upsert", action="store_true", help="replace a value that is there")
    parser.add_argument("-r", "--replicas", type=_some, default=1, metavar="N", help="on N segments")
    parser.add_argument("-s", "--segment", action="append", metavar="NAME", help="preferably there; may be repeated")
    parser.add_argument("--soft-pin", action="store_true", help="evict it last")
    parser.add_argument("--hard-pin", action="store_true", help="never evict it")


def _add_rm(parser):
    parser.add_argument("key", nargs="*")
    parser.add_argument("-e", "--regex", metavar="PATTERN", help="keys in which this regular expression is found")
    parser.add_argument("--all", action="store_true", help="every object of the cluster")
    parser.add_argument("-f", "--force", action="store_true", help="also what somebody has read a moment ago")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _add_segments(parser):
    parser.add_argument("--names", action="store_true", help="names alone, one a line")


def _add_drain(parser):
    parser.add_argument("segment", nargs="*", help="names of segments (mooncake segments)")
    parser.add_argument("--to", action="append", metavar="SEGMENT", help="move to these alone; may be repeated")
    parser.add_argument("--max-concurrency", type=_some, default=4, metavar="N", help="objects moved at a time (default: 4)")
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and go")
    parser.add_argument("--wait", type=_positive, metavar="SECONDS", help="watch no longer than this")
    parser.add_argument("--watch", metavar="JOB", help="watch a job that was begun before")
    parser.add_argument("--cancel", metavar="JOB", help="stop a job; what has been moved stays moved")


def _add_top(parser):
    parser.add_argument("-i", "--interval", type=_positive, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    parser.add_argument("-n", "--count", type=_count, default=0, metavar="N", help="end after N looks")


def _add_bench(parser):
    parser.add_argument("--sizes", default="4KB,64KB,1MB,16MB", help="sizes of values (default: %(default)s)")
    parser.add_argument("--threads", type=_some, default=1, metavar="N", help="callers at a time (default: 1)")
    parser.add_argument("--seconds", type=_positive, default=2.0, metavar="S", help="for each size and operation (default: 2)")
    parser.add_argument("--segment", default="0", metavar="SIZE", help="memory that the bench lends itself (default: 0, uses that of others)")


def _add_doctor(parser):
    parser.add_argument("--quick", action="store_true", help="without the self test")


def _add_completion(parser):
    parser.add_argument("shell", choices=["bash"])


# name: (module, options, one line)
COMMANDS = {
    "status": ("cli_cluster", _add_status, "how the cluster fares"),
    "keys": ("cli_cluster", _add_keys, "list keys"),
    "get": ("cli_store", _add_get, "write a value to a file or stdout"),
    "put": ("cli_store", _add_put, "store a file, a text or stdin"),
    "rm": ("cli_store", _add_rm, "remove keys"),
    "segments": ("cli_cluster", _add_segments, "list the memory that is lent"),
    "drain": ("cli_cluster", _add_drain, "move what lies in segments elsewhere"),
    "top": ("cli_cluster", _add_top, "rates and usage, live"),
    "bench": ("cli_store", _add_bench, "measure puts and gets"),
    "doctor": ("cli_doctor", _add_doctor, "what is installed here, and what to fix"),
    "completion": ("cli_completion", _add_completion, "print a completion script"),
}

EPILOG = """exit codes: 0 done; 1 failed; 2 wrong usage; 3 the master is not reachable; 4 no such key, segment or job; 5 this master cannot do it; 130 interrupted

Completion: eval "$(mooncake completion bash)\""""


def make_parser():
    common = _common()
    parser = argparse.ArgumentParser(prog="mooncake", parents=[common], description="The Mooncake store on the command line.", epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, add, text) in COMMANDS.items():
        add(subparsers.add_parser(name, parents=[common], help=text, description=text[0].upper() + text[1:] + "."))
    return parser


def _version():
    from importlib import metadata

    try:
        return metadata.version("mooncake-store-c")
    except metadata.PackageNotFoundError:
        from .store import __version__

        return __version__


def _run(arguments):
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.version:
        print(f"mooncake {_version()}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    master, admin = _defaults()
    for name, value in (("master", master), ("admin", None), ("timeout", 10.0), ("json", False)):
        if not hasattr(options, name):
            setattr(options, name, value)
    if options.admin is None:
        # A master that was named is the one that is meant, also by commands that ask its admin server.
        host = options.master.rpartition(":")[0] or options.master
        named = options.master != master and not options.master.startswith("unix:")
        options.admin = f"{host}:{os.environ.get('MOONCAKE_MASTER_METRICS_PORT') or 9003}" if named else admin
    module = importlib.import_module("." + COMMANDS[options.command][0], __package__)
    return getattr(module, options.command)(options)


def main(arguments=None):
    """The exit code."""
    # Output that is cut off by `| head` ends the command quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        return _run(arguments)
    except Failure as failure:
        print(f"mooncake: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
