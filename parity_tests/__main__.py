"""The parity report: what the twins agree on, on this machine.

    python -m parity_tests [--quick] [--device cpu|gpu|tpu] [--json [FILE]]

Runs every operation in every precision, and every optimizer, in JAX and in torch; holds
the two against each other and against independent oracles, and says PASS or FAIL.
Where only one framework is installed, stored results stand in for the other. Ends with
exit code 0 if all pass, 1 if any fails, and 2 if it cannot run.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

# The other framework may want the accelerator's memory too; before JAX starts.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the report, and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        # Not before the arguments are known to be good: these take seconds.
        from parity_tests.frameworks.twin import installed
        from parity_tests.report import rendering

        twins = installed()
        sides = rendering.choose_sides(twins, options.device)
        if options.json not in (None, "-"):
            # Before minutes are spent on what cannot be written.
            pathlib.Path(options.json).touch()
    except ImportError as error:
        print(f'{error}. Install it by: pip install ".[parity]"', file=sys.stderr)
        return 2
    except (rendering.UnavailableError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    result = rendering.run(sides, quick=options.quick)
    if options.json == "-":
        print(rendering.to_json(result))
    else:
        rendering.show(result)
    if options.json not in (None, "-"):
        pathlib.Path(options.json).write_text(rendering.to_json(result) + "\n")
    return 0 if result.passed else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m parity_tests", description=__doc__.split("\n\n")[2]
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the Lasso alone, and optimizers in double precision alone",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu", "tpu"),
        help="where to run, for each framework that has it; by default a TPU before "
        "a GPU before the CPU",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the report as JSON: to FILE, or in place of the tables",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
