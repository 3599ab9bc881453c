"""The options that name an ensemble."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from ensemble.cli.options import STDOUT, check_fit, check_output, committee_options, read_committee, write_output
from ensemble.lockfile import Committee, write_lockfile
from ensemble.members import Member
from zoo.errors import NotFoundError, StorageError, UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


def test_members_with_defaults(zoo: "Zoo") -> None:
    del zoo
    committee = read_committee("tiny-a,tiny-b=2", None, None, None)
    assert [(m.name, m.weight) for m in committee.members] == [("tiny-a", 1.0), ("tiny-b", 2.0)]
    assert (committee.views, committee.merge, committee.temperature) == ("none", "probs", 1.0)


@pytest.mark.parametrize("views", ["none", "flip", "flip+shift1", "crops5"])
@pytest.mark.parametrize("merge", ["probs", "logits", "vote"])
def test_views_and_merge(zoo: "Zoo", views: str, merge: str) -> None:
    del zoo
    committee = read_committee("tiny-a", None, views, merge)
    assert (committee.views, committee.merge) == (views, merge)


def test_a_lockfile_is_taken_as_it_is(zoo: "Zoo", tmp_path: Path) -> None:
    committee = Committee((Member("tiny-b", zoo.entry("tiny-b"), 3.0, 1.5),), "flip", "logits", 0.8)
    write_lockfile(tmp_path / "ensemble.json", committee, fitted_on=None, metrics={})
    assert read_committee(None, tmp_path / "ensemble.json", None, None) == committee
    assert read_committee(None, tmp_path / "ensemble.json", None, None, default="tiny-a") == committee


def test_default_members(zoo: "Zoo") -> None:
    del zoo
    assert [m.name for m in read_committee(None, None, "flip", None, default="tiny-*").members] == [
        "tiny-a",
        "tiny-b",
        "tiny-c",
    ]
    assert [m.name for m in read_committee("tiny-b", None, None, None, default="tiny-*").members] == ["tiny-b"]


@pytest.mark.parametrize(
    ("members", "lockfile", "views", "merge", "says"),
    [
        (None, None, None, None, "give --members A,B=1.2 or --ensemble FILE"),
        ("", None, None, None, "give --members"),
        ("tiny-a", Path("e.json"), None, None, "leave --members"),
        (None, Path("e.json"), "flip", None, "leave --members"),
        (None, Path("e.json"), None, "vote", "leave --members"),
        ("tiny-a", None, "flop", None, "did you mean 'flip'?"),
        ("tiny-a", None, "rotate", None, "there are none, flip, flip+shift1, crops5"),
        ("tiny-a", None, None, "mean", "unknown --merge 'mean'; there are probs, logits, vote"),
        ("tiny-a", None, None, "", "unknown --merge ''"),
        ("tiny-a=0", None, None, None, "'tiny-a' is 0;"),
    ],
)
def test_nonsense(
    zoo: "Zoo", members: str | None, lockfile: Path | None, views: str | None, merge: str | None, says: str
) -> None:
    del zoo
    with pytest.raises(UsageError) as caught:
        read_committee(members, lockfile, views, merge)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_views_and_merges_are_found_before_members_are_looked_for() -> None:
    with pytest.raises(UsageError, match="flop"):
        read_committee("no-such-member", None, "flop", None)
    with pytest.raises(NotFoundError, match="no-such-member"):
        read_committee("no-such-member", None, "flip", None)


def test_a_command_gets_all_four_options() -> None:
    @click.command
    @committee_options
    def command(**options: object) -> None:
        del options

    names = {option for parameter in command.params for option in parameter.opts}
    assert names == {"--members", "--ensemble", "--tta", "--merge"}


def test_outputs_lie_in_folders_that_there_are_and_are_not_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    for free in (None, STDOUT, Path("x.json"), Path("there/x.json"), tmp_path / "x.json"):
        check_output("-o", free, [Path("in.json")])
    for path in (Path("there"), Path("not/x.json")):
        with pytest.raises(UsageError, match=f"^-o '{path}' is not a file in an existing folder$"):
            check_output("-o", path)
    for path in (Path("in.json"), Path("there/../in.json"), tmp_path / "in.json"):
        with pytest.raises(UsageError, match=r"would overwrite what is read: give another file$"):
            check_output("--json", path, [Path("other.json"), Path("in.json")])


def test_one_thing_is_printed() -> None:
    for as_json, dry_run in ((False, False), (True, True)):
        check_fit(None, STDOUT, dry_run=dry_run, as_json=as_json)
    with pytest.raises(UsageError, match="-o - and --json both write to stdout"):
        check_fit(None, STDOUT, dry_run=False, as_json=True)


def test_text_is_written_or_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(tmp_path / "x.json", "some\ntext\n")
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == "some\ntext\n"
    assert capsys.readouterr().out == ""
    write_output(STDOUT, "some\ntext\n")
    assert capsys.readouterr().out == "some\ntext\n"
    with pytest.raises(StorageError, match="cannot write"):
        write_output(tmp_path / "no" / "x.json", "text")


def test_a_closed_folder_is_said_before_any_work(tmp_path: Path) -> None:
    check_output("-o", tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []
    check_output("-o", Path("/dev/null"))  # its folder need not take files
    with pytest.raises(StorageError, match="cannot write /proc"):  # nobody's to write, root's neither
        check_output("-o", Path("/proc/x.json"))
