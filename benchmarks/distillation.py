"""Students of a committee beside networks of the same architecture and epochs that learned from labels.

    export ZOO_SOURCE=benchmarks/students  # the predictions of the networks that do not ship
    python -m benchmarks.distillation --students 'fastnet-distilled-seed*' --controls 'fastnet-20ep-seed*'

The accuracies are those of the stored predictions on CIFAR-10's test split. The difference is that of the mean accuracy
of all students and of all controls, on the same images: its interval is a paired bootstrap over images (BCa, 10,000
resamples), for these networks; what other seeds would do is not in it. Then each student beside each control, as
`ensemble compare` does it. The controls were trained by `zoo train fastnet --set epochs=20 --seed N --name NAME`.
"""

import argparse
import json
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.evaluate import split_source, stored_ballots
from ensemble.lockfile import Committee
from ensemble.members import Member, parse_members
from ensemble.merge import merge
from ensemble.resampling import mean_sums, resample
from ensemble.significance import interval, paired_accuracy
from zoo.errors import MenagerieError

VIEWS = ("none", "flip")
Right = npt.NDArray[np.bool_]


def answers(member: Member, views: str) -> Right:
    """Return which images of the test split `[N]` a member gets right."""
    ballots = stored_ballots(Committee((member,), views), split_source([member], "test"))
    return np.asarray(merge(ballots.votes, "probs")[1] == ballots.labels)


def compare(students: dict[str, Right], controls: dict[str, Right]) -> dict[str, Any]:
    """Return accuracies, the difference of their means, and of each pair, with paired 95 % intervals; as fractions."""
    of_students, of_controls = (np.mean(list(group.values()), axis=0) for group in (students, controls))
    a, b = resample([mean_sums(of_controls), mean_sums(of_students)], len(of_students))
    pairs = {
        f"{student} - {control}": asdict(
            paired_accuracy(int((theirs & ~own).sum()), int((own & ~theirs).sum()), len(own))
        )
        for (student, own), (control, theirs) in product(students.items(), controls.items())
    }
    return {
        "accuracy": {name: float(right.mean()) for name, right in (students | controls).items()},
        "difference": asdict(interval(b - a)),
        "pairs": pairs,
    }


def main() -> None:
    """Compare, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="Students beside controls, on the test split.")
    parser.add_argument("--students", required=True, help="Patterns of names, with commas.")
    parser.add_argument("--controls", required=True, help="Likewise.")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        groups = [parse_members(words) for words in (arguments.students, arguments.controls)]
        results = {views: compare(*({m.name: answers(m, views) for m in group} for group in groups)) for views in VIEWS}
    except MenagerieError as error:
        parser.error(str(error))
    if arguments.json:
        print(json.dumps(results))
        return
    for views, result in results.items():
        print(f"views: {views}")
        for name, accuracy in result["accuracy"].items():
            print(f"  {name:<60}{100 * accuracy:.2f} %")
        for name, found in {"mean of students - mean of controls": result["difference"], **result["pairs"]}.items():
            print(f"  {name:<60}{100 * found['value']:+.2f} ({100 * found['low']:+.2f} to {100 * found['high']:+.2f})")


if __name__ == "__main__":
    main()
