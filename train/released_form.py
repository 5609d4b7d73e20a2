"""What the reference's files do not say: which form of IF-IM they were trained in."""

from __future__ import annotations

from ifmmin.runtime.errors import InputError
from ifmmin.train.released_files import ReleasedFiles
from ifmmin.train.released_nets import Mapped

HOW_TO_TELL = (
    "look into models/networks/autoencoder_2.py of the code that trained it: where the loop adds "
    "H' (`shared`) to its running input the form is parallel (code of October 2022 to September "
    "2024), where it adds it to the output of the block before it is cascade (code since then)"
)
_REFERENCE_MODEL = {"fusion": "utt_shared", "if-mmin": "IFMMIN", "mmin": "mmin"}


def imagination_form(
    files: ReleasedFiles, mapped: Mapped, named: str | None
) -> tuple[str, list[str]]:
    """The form, and what the user has to know about model and form, a line each.

    named: the form that the user named. InputError when IF-MMIN lacks it or MMIN has it.
    """
    notes = _surprises(files)
    if files.model == "if-mmin":
        return _of_if_mmin(mapped, named, notes), notes
    if files.model == "mmin":
        if named is not None:
            raise InputError(
                "--imagination is for IF-MMIN, and without a net invariant this is an MMIN; leave "
                "it out, or find the missing file"
            )
        notes.append("without a net invariant this is an MMIN")
    elif named is not None:
        notes.append("stage 1 does not imagine: --imagination is not used")
    return "cascade", notes


def _of_if_mmin(mapped: Mapped, named: str | None, notes: list[str]) -> str:
    looks, traces = "cascade", "decoders before the last were trained, as only the cascade trains"
    if mapped.idle_decoders:
        looks = "parallel"
        traces = "the decoders before the last have only zero biases, as the parallel form keeps"
    if named is None:
        raise InputError(
            "give --imagination cascade or parallel, the checkpoint does not record it; "
            f"{HOW_TO_TELL}. Here {traces} them"
        )
    if named != looks:
        notes.append(f"warning: got --imagination {named}, but {traces} them; {HOW_TO_TELL}")
    return named


def _surprises(files: ReleasedFiles) -> list[str]:
    notes = [f"{name} has no part in an answer: not imported" for name in files.unread]
    said, wanted = str(files.options.get("model", "")), _REFERENCE_MODEL[files.model]
    if said and said.lower() != wanted.lower():
        notes.append(
            f"warning: train_opt.conf says model {said}; it has the files of {wanted}, as which it "
            "is imported"
        )
    return notes
