"""The results' folder, such that a run can be killed at any instant: nothing is lost, nothing is done twice.

A result is written whole to `.NAME.part`, then its row to restore.csv, then the file gets its name. So a file with its
name is complete; a row without that file means that only the renaming is missing; a part without a row is thrown away.
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

from .console import Failure
from .environment import try_lock

FIELDS = ("picture", "status", "fit", "residual", "method", "seconds", "bits", "server", "note")
Row = dict[str, Any]


class Ledger:
    """Use it in a `with` statement; one process at a time has it.

    Args:
        folder: of the results; it is made where it is missing.
        workflow: what they are made by; another one needs another folder.

    Raises:
        Failure: when the folder is another run's, or another workflow's.
    """

    def __init__(self, folder: Path, workflow: dict[str, Any]) -> None:
        self.folder, self.path, self.lock = folder, folder / "restore.csv", threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.guard = (folder / ".lock").open("a")
        if not try_lock(self.guard.fileno()):
            self.guard.close()
            raise Failure(f"Another run is filling {folder}; let it end, or choose another folder with --out.")
        try:
            self._own(workflow)
            self._recover()
        except BaseException:
            self.guard.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.guard.close()

    def is_done(self, picture: str) -> bool:
        return (self.folder / picture).is_file()

    def keep(self, picture: str, files: list[bytes], row: Row) -> None:
        """Keep a result; of several files the first has the picture's name, the others NAME.2.png and so on."""
        path = self.folder / picture
        path.parent.mkdir(parents=True, exist_ok=True)
        for number, content in reversed(list(enumerate(files, 1))):
            target = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
            _written(_part(target), content)
            if number > 1:
                os.replace(_part(target), target)
        self.note({"picture": picture, "status": "restored", **row})
        os.replace(_part(path), path)

    def note(self, row: Row) -> None:
        """Append a row, whole or not at all as far as the next run is concerned."""
        with self.lock, self.path.open("ab") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """The complete rows; a last line without its end was cut off by a kill."""
        text = self.path.read_bytes().decode() if self.path.exists() else ""
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))

    def _own(self, workflow: dict[str, Any]) -> None:
        path, text = self.folder / "workflow.json", json.dumps(workflow, indent=1) + "\n"
        if not path.exists():
            _written(_part(path), text.encode())
            os.replace(_part(path), path)
        elif path.read_text(encoding="utf-8") != text:
            raise Failure(f"{self.folder} has results of another workflow; choose another folder with --out.")

    def _recover(self) -> None:
        """End what a killed run began; forget the rows of what is to be done (again)."""
        rows = {row["picture"]: row for row in self.rows() if row["status"] == "restored"}
        for picture in rows:
            path = self.folder / picture
            if _part(path).is_file() and not path.exists():
                os.replace(_part(path), path)
        for part in self.folder.rglob(".*.part"):
            part.unlink()
        kept = b"".join(_line(row) for row in rows.values() if self.is_done(row["picture"]))
        _written(_part(self.path), _line(dict(zip(FIELDS, FIELDS, strict=True))) + kept)
        os.replace(_part(self.path), self.path)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _written(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _line(row: Row) -> bytes:
    """A line of CSV; no field has a line break, so that every line is a row."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow([" ".join(str(row.get(name, "")).split()) for name in FIELDS])
    return stream.getvalue().encode()
