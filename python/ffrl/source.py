"""The commit of this source. The build runs this file by its path, to write the commit into what it makes."""

import subprocess
import sys
from pathlib import Path

COMMIT_NAME = "commit.txt"  # beside this file, in wheels and source distributions; empty: not known


def source_commit() -> str | None:
    """The commit that this source is of, "-modified" after it where tracked files differ from it.

    In a git checkout, git is asked; elsewhere, what the build has found there. None: the package was built neither from
    a checkout nor from a source distribution made in one.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # A folder within some other project's checkout, as an environment often is, is not in that project's commit.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-modified" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        built_from = folder / COMMIT_NAME
        return (built_from.read_text().strip() or None) if built_from.is_file() else None


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(source_commit() or "")
