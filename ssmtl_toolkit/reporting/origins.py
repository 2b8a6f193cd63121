"""The section on how a result came to be, for every kind of run."""

from __future__ import annotations

from typing import Any

import tomli_w

from ssmtl_toolkit.reporting.parts import Code, Facts, Folded, Part, Section, Text
from ssmtl_toolkit.reporting.records import Record
from ssmtl_toolkit.runtime.folder import ENVIRONMENT


def provenance_section(record: Record) -> Section:
    """Command, versions, machine, seeds, data, options and citations."""
    told = record.summary.get("provenance", {})
    if not told:
        parts: list[Part] = [Text("Recorded when a run ends; earlier versions did not.")]
    else:
        parts = [Code("Command", "\n".join(_commands(record, told))), Facts(_facts(told))]
    if record.options:
        parts.append(Folded("All options", [Code("As TOML", tomli_w.dumps(record.options))]))
    if told.get("citations"):
        parts.append(Code("Please cite (BibTeX)", "\n\n".join(told["citations"])))
    return Section("provenance", "Provenance", parts)


def _commands(record: Record, told: dict[str, Any]) -> list[str]:
    """The command of each start; of comparisons, whose runs have their own, that of the last."""
    starts = record.read(ENVIRONMENT).get("starts", ())
    return [start["command"] for start in starts] or [told.get("command", "not recorded")]


def _facts(told: dict[str, Any]) -> list[tuple[str, str]]:
    machine = told["machine"]
    facts = [
        ("seeds", ", ".join(map(str, told["seeds"]))),
        ("data (digest of the slices)", told["data"][:16]),
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"),
        ("computed on", machine.get("gpu", machine["device"])),
    ]
    return [(name, value) for name, value in facts + list(told["versions"].items()) if value]
