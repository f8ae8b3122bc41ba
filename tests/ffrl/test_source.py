"""Results name the commit that computed them, from a checkout and from a wheel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffrl import source

PROJECT = Path(__file__).parents[2]
COMMIT = re.compile(r"([0-9a-f]{40})(-modified)?")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def written_by_build(module, out, **environment):
    """What the build's way of running `module`, by its path, writes into `out`."""
    command = [sys.executable, "-I", str(module), str(out)]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    return out.read_text()


@pytest.fixture
def module(tmp_path):
    """A copy of ffrl/source.py in a folder of its own."""
    folder = tmp_path / "project" / "ffrl"
    folder.mkdir(parents=True)
    return Path(shutil.copy(source.__file__, folder))


@needs_git
def test_checkout(module, tmp_path):
    folder, out = module.parent, tmp_path / "out"
    git(folder.parent, "init", "-q")
    other = folder / "other.txt"
    other.write_text("a")
    git(folder, "add", "other.txt")
    git(folder, "commit", "-qm", "without the module")
    assert written_by_build(module, out) == ""  # in the folder of a checkout, but not of it
    git(folder, "add", "source.py")
    git(folder, "commit", "-qm", "with it")
    head = git(folder, "rev-parse", "HEAD")
    (folder / source.COMMIT_NAME).write_text("what an older build found")
    assert written_by_build(module, out) == head
    other.write_text("b")
    assert written_by_build(module, out) == head + "-modified"


def test_built_package(module, tmp_path):
    out = tmp_path / "out"
    assert written_by_build(module, out) == ""
    (module.parent / source.COMMIT_NAME).write_text("f" * 40)
    assert written_by_build(module, out) == "f" * 40
    assert written_by_build(module, out, PATH="") == "f" * 40  # no git here


@needs_git
def test_what_is_tested_names_a_commit_of_this_repository():
    if not (PROJECT / ".git").exists():
        pytest.skip("needs a git checkout")
    found = COMMIT.fullmatch(source.source_commit() or "")
    assert found, f"expected a commit, found {source.source_commit()}"
    assert git(PROJECT, "cat-file", "-t", found[1]) == "commit"
