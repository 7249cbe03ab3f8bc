"""What became of a prompt, and whether that is a fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: seconds of the processor within which a prompt must end once it is cancelled
CANCEL = 2.0
#: characters of a sentence that can be read
LONG = 400


@dataclass
class Answer:
    """What became of a prompt: `kind` is works, refused (by the server or in a sentence), cancelled, host or fault."""

    kind: str
    text: str = ""


def judged(entry: dict[str, Any], late: float) -> Answer:
    """late: seconds of the processor from the Cancel to the end, 0 where there was none."""
    if late > CANCEL:
        return Answer("fault", f"ended {late:.1f} s after Cancel")
    for event, details in entry["status"]["messages"]:
        if event == "execution_interrupted":
            return Answer("cancelled")
        if event == "execution_error":
            message, trace = details["exception_message"].strip(), details["traceback"]
            if details["exception_type"].endswith("Refusal"):
                return Answer("refused" if sentence(message) else "fault", message)
            ours = [line for line in trace if "custom_nodes/posterior" in line]
            shown = details["node_type"] in ("PreviewImage", "MaskPreview", "VAEDecode", "PreviewAny")
            where = "".join(ours[-2:] or trace[-1:])
            text = f"{details['node_type']}: {details['exception_type']}: {message[:200]}\n{where}"
            return Answer("fault" if ours or shown else "host", text)
    return Answer("works")


def sentence(text: str) -> bool:
    """Whether a refusal is one sentence of a readable length that says what to change."""
    good = text[:1].isupper() or text[:1].isdigit() or "." in text.partition(" ")[0]  # the name of a file
    return good and text.endswith(".") and "\n" not in text and ". " not in text and len(text) < LONG
