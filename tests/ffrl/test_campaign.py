"""Jobs of several commands: their order, how many at once, what fails, and what a signal does to them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ffrl.campaign.lock import sole_use
from ffrl.campaign.page import Page
from ffrl.campaign.processes import Job, run_jobs
from ffrl.errors import UserError


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """A job of shell scripts, one after another; {here} stands for a folder of its own."""

    def make(name: str, scripts: Sequence[str]) -> Job:
        here, left = tmp_path / name, list(scripts)
        here.mkdir()
        return Job(name, here / "log", lambda: ["sh", "-c", left.pop(0).format(here=here)] if left else None)

    return make


def test_commands_of_a_job_follow_each_other(job: Callable[..., Job], tmp_path: Path) -> None:
    told: list[str] = []
    jobs = [job(name, ["echo one > {here}/file", "cat {here}/file; echo two"]) for name in ("a", "b", "c")]
    outcome = run_jobs(jobs, 2, lambda job: told.append(job.name))
    assert (outcome.failed, outcome.interrupted, sorted(told)) == ({}, False, ["a", "b", "c"])
    assert (tmp_path / "b" / "log").read_text() == "one\ntwo\n"


def test_no_more_at_once_than_asked(job: Callable[..., Job], tmp_path: Path) -> None:
    count = f"touch {{here}}/on; ls -d {tmp_path}/*/on | wc -l; sleep 0.3; rm {{here}}/on"
    run_jobs([job(str(number), [count]) for number in range(5)], 2, lambda job: None)
    seen = [int(log.read_text()) for log in tmp_path.glob("*/log")]
    assert len(seen) == 5 and max(seen) == 2


def test_a_failed_job_is_named_and_the_others_go_on(job: Callable[..., Job]) -> None:
    told: list[str] = []
    jobs = [job("bad", ["echo first; echo last >&2; exit 3", "true"]), job("mute", ["exit 4"]), job("good", ["true"])]
    outcome = run_jobs(jobs, 1, lambda job: told.append(job.name))
    assert outcome.failed == {"bad": "last", "mute": "exit code 4"}
    assert told == ["good"] and not outcome.interrupted


def test_a_killed_command_is_not_told_by_what_others_said(job: Callable[..., Job]) -> None:
    outcome = run_jobs([job("a", ["echo done", "kill -9 $$"])], 1, lambda job: None)
    assert outcome.failed == {"a": "exit code -9"}


def test_a_command_that_leaves_its_work_undone_is_not_repeated(tmp_path: Path) -> None:
    outcome = run_jobs([Job("idle", tmp_path / "log", lambda: ["true"])], 1, lambda job: None)
    assert outcome.failed == {"idle": "nothing came of true"}


def test_a_signal_is_passed_on_and_nothing_new_starts(job: Callable[..., Job], tmp_path: Path) -> None:
    saves = "trap 'echo saved; exit 130' TERM; touch {here}/on; while true; do sleep 0.05; done"
    waits = f"while [ ! -e {tmp_path}/long/on ]; do sleep 0.05; done"
    before = signal.getsignal(signal.SIGINT)
    jobs = [job("long", [saves]), job("short", [waits]), job("never", ["touch {here}/on"])]
    outcome = run_jobs(jobs, 2, lambda job: os.kill(os.getpid(), signal.SIGINT))
    assert outcome.interrupted and outcome.failed == {}
    assert (tmp_path / "long" / "log").read_text() == "saved\n"
    assert not (tmp_path / "never" / "on").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_exception_kills_what_runs(job: Callable[..., Job], tmp_path: Path) -> None:
    def refuse(job: Job) -> None:
        raise UserError("no")

    waits = f"while [ ! -e {tmp_path}/long/pid ]; do sleep 0.05; done"
    jobs = [
        job("long", ["echo $$ > {here}/pid.new; mv {here}/pid.new {here}/pid; exec sleep 60"]),
        job("short", [waits]),
    ]
    began = time.monotonic()
    with pytest.raises(UserError, match="no"):
        run_jobs(jobs, 2, refuse)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "long" / "pid").read_text()), 0)


def test_a_folder_is_held_by_one_command(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        sole_use(tmp_path / "runs", told.append),
        pytest.raises(UserError, match=r"runs: expected no other command at work in it, found one"),
        sole_use(tmp_path / "runs", told.append),
    ):
        raise AssertionError("two at once")
    with sole_use(tmp_path / "runs", told.append):
        pass
    assert told == []


def test_what_a_killed_command_left_is_waited_for(tmp_path: Path) -> None:
    with sole_use(tmp_path, print) as descriptor:
        left = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    told: list[str] = []

    def let_it_end(text: str) -> None:
        told.append(text)
        assert left.poll() is None and left.stdin is not None
        left.stdin.close()

    with sole_use(tmp_path, let_it_end):
        assert left.wait(timeout=10) == 0
    assert told == [f"waiting for the runs in {tmp_path} that a killed command left at work"]


@pytest.mark.parametrize("text", ["no marks\n", "<!-- study -->\n", "<!-- end of study -->\n<!-- study -->\n"])
def test_a_page_has_marks(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(UserError, match="expected the lines <!-- study --> and <!-- end of study -->, found not both"):
        Page(path, "study")


def test_a_page_is_text(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_bytes("<!-- study -->\n\xff<!-- end of study -->\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"--docs .*page\.md: expected text in UTF-8, found invalid start byte"):
        Page(path, "study")


def test_a_table_between_the_marks_of_a_page(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("above\n<!-- study -->\nold\n<!-- end of study -->\nbelow\n<!-- table -->\n<!-- end of table -->\n")
    for table in ("new\nlines\n", "newer\n"):
        Page(path, "study").write(table)
    assert path.read_text() == (
        "above\n<!-- study -->\nnewer\n<!-- end of study -->\nbelow\n<!-- table -->\n<!-- end of table -->\n"
    )
