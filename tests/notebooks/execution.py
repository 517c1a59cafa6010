"""Runs notebooks and keeps their outputs, without warnings and progress, which differ from run to run.

uv run python tests/notebooks/execution.py notebooks/*.ipynb
"""

import copy
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Returns the notebook with its outputs after running it in a folder."""
    notebook = nbformat.read(path, 4)
    metadata = copy.deepcopy(notebook.metadata)  # running adds the version of Python
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    notebook.metadata = metadata
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(Path(name), Path(folder))
        Path(name).write_text(nbformat.writes(notebook, indent=1) + "\n")
