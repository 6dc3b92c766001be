"""Code of tasks that a fleet's folder keeps for the bundles of its devices."""

from collections.abc import Mapping
from pathlib import Path

from broker.errors import RunError
from broker.files import private_folder, write_file, writing
from broker.provisioning.members import Run


def keep_code(folder: Path, run: Run, runs: Mapping[str, str]) -> str:
    """Copy the code of a run's task to a folder; give its file name, empty for a task that has none.

    Args:
        folder: made if missing.
        run: may have been kept before; the code is then replaced.
        runs: file names of all runs.

    Raises:
        RunError: the code cannot be read, the folder cannot be written to, or another run has other code in
            a file of this name.
    """
    if run.module is None:
        return ""
    name, kept = run.module.name, folder / run.module.name
    try:
        code = run.module.read_bytes()
        differs = kept.exists() and kept.read_bytes() != code
    except OSError as error:
        raise RunError(f"the task's code cannot be read: {error}") from error
    if differs and any(file == name for other, file in runs.items() if other != run.name):
        raise RunError(f"another run of the fleet has other code in a file {name}: rename one of the two")
    with writing(folder):
        private_folder(folder)
        write_file(kept, code)
    return name


def code_of(folder: Path, run: str, runs: Mapping[str, str]) -> dict[str, bytes]:
    """Give the code that a device needs, by file name: of its run, or of all if its bundle names none."""
    names = [runs.get(run, "")] if run else list(runs.values())
    return {name: (folder / name).read_bytes() for name in names if name}
