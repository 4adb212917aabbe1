"""Check this host and print one JSON document: ``python -P -m playbooks.checks --budget-s 5``.

For whoever checks many hosts, and starts this on each with a time limit. Exit codes: 0 fine,
1 something is bad, 2 usage; the document says what.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from collectors.errors import OpsuiteError
from collectors.settings import Settings
from playbooks.checks.baseline import load_baseline
from playbooks.checks.check import TOLERANCE
from playbooks.checks.child import answer
from playbooks.checks.hardware import this_hardware
from playbooks.checks.suite import FULL, QUICK, Profile, run_checks


def main() -> int:
    """Run the checks that the arguments ask for; returns the exit code."""
    given = _parse()
    try:
        baseline = load_baseline(Settings.from_environment().home, this_hardware())
        found = run_checks(
            _profile(given), baseline, tolerance=given.tolerance, flip_bit=given.flip_bit
        )
    except OpsuiteError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    answer(found.to_json())
    return 0 if found.fine else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="playbooks.checks", description="Check this host.")
    parser.add_argument("--json", action="store_true", help="as it does anyway")
    parser.add_argument("--full", action="store_true", help="all checks, about a minute")
    parser.add_argument("--only", help="checks, separated by commas")
    parser.add_argument("--budget-s", type=float, help="seconds for all")
    parser.add_argument("--grace-s", type=float, help="more seconds, after which a check failed")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="below the baseline")
    parser.add_argument("--flip-bit", type=int, metavar="N", help="drill: spoil the Nth product")
    return parser.parse_args()


def _profile(given: argparse.Namespace) -> Profile:
    profile = FULL if given.full else QUICK
    return replace(
        profile,
        checks=tuple(given.only.split(",")) if given.only else profile.checks,
        budget_s=profile.budget_s if given.budget_s is None else given.budget_s,
        grace_s=profile.grace_s if given.grace_s is None else given.grace_s,
    )


if __name__ == "__main__":
    sys.exit(main())
