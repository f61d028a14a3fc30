"""docs/coverage.md from the records of coverage.py."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
COLUMNS = ("trace", "exits", "host", "train", "arm64", "train_arm64")
HEAD = """# Coverage

Every CNN classifier of torchvision, at its own input size, through the whole path. `make coverage` measures and writes
this page (`benchmarks/coverage.py`) and goes on where it was stopped; nothing here is written by hand.

- **trace, exits**: seconds to trace the network; to place and insert three exits before the final one, save the program
  and load it. Cut points are the places where an exit can be.
- **host, arm64**: seconds to compile and verify the artifact for `x86_64-linux` and, under the emulator, for
  `arm64-android`; and the greatest difference of any exit's logits to PyTorch's, of the greatest logit: at most 1e-3.
  The emulator does a tenth of a GMAC a second: a network of over 10 GMACs is built for ARM with height and width of its
  images halved until it has fewer, which its row says.
- **train**: three steps of every head's compiled trainer against PyTorch's autograd and SGD, on both targets: the
  greatest difference of a loss, or of a weight, of the greatest weight: at most 1e-4.

Seconds are of a busy machine with two cores: they say how long one waits, not how fast the compiler is.
"""


def page(records: dict[str, Record], names: list[str]) -> str:
    found = {name: records[name] for name in names if name in records}
    parts = [HEAD, *verdict(found, names), "## Networks\n", table(found)]
    failed = {name: record for name, record in found.items() if not record["ok"]}
    if failed:
        parts += [
            "## Failures\n",
            "\n".join(f"- `{name}`: {failure(record)}" for name, record in failed.items()) + "\n",
        ]
    missing = [name for name in names if name not in found]
    if missing:
        parts += ["## Not measured yet\n", f"{', '.join(f'`{name}`' for name in missing)}.\n"]
    return "\n".join(parts)


def verdict(found: dict[str, Record], names: list[str]) -> list[str]:
    """How many, the worst, and with what."""
    lines = ["| column | networks | greatest difference | of |", "|---|---|---|---|"]
    for column in COLUMNS:
        good = {name: record[column] for name, record in found.items() if record.get(column, {}).get("ok")}
        values = {(d, name, e) for name, facts in good.items() for e, d in facts.get("differences", {}).items()}
        worst = max(values, default=None)
        told = f"{worst[0]:.1e} | `{worst[1]}`, {worst[2]}" if worst else "|"
        lines.append(f"| {column} | {len(good)} of {len(names)} | {told} |")
    stamps = sorted({(r["code"], r["date"], *(f"{k} {v}" for k, v in r["versions"].items())) for r in found.values()})
    told_of = "; ".join(
        f"{sum(r['code'] == code and r['date'] == date for r in found.values())} at commit {code} on {date}"
        f" with {', '.join(rest)}"
        for code, date, *rest in stamps
    )
    random = sum(record.get("trace", {}).get("weights") == "random" for record in found.values())
    weights = (
        f"Weights: {len(found) - random} networks with torchvision's,"
        f" {random} with random ones, in which every layer shows."
    )
    return ["\n".join(lines) + "\n", f"Networks: {told_of or 'none'}.\n{weights}\n"]


def table(found: dict[str, Record]) -> str:
    titles = (
        "network", "input", "GMACs", "weights, MB", "cut points", "exits", "trace, s", "exits, s",
        "host, s", "host, difference", "arm64, s", "arm64, difference",
        "executable, KB", "train, difference", "memory, GB",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(row(name, record))} |" for name, record in sorted(found.items())]
    return "\n".join(lines) + "\n"


def row(name: str, record: Record) -> list[str]:
    trace, exits, host, train, arm, train_arm = (record.get(column, {}) for column in COLUMNS)
    peak = max((facts.get("peak_bytes", 0) for facts in (trace, exits, host, train, arm, train_arm)), default=0)
    both = {**train.get("differences", {}), **{f"{k} arm": v for k, v in train_arm.get("differences", {}).items()}}
    return [
        f"`{name}`",
        "x".join(map(str, trace["input"])) if "input" in trace else "",
        f"{exits['macs'] / 1e9:.2f}" if "macs" in exits else "",
        f"{trace['weight_bytes'] / 1e6:.0f}" if "weight_bytes" in trace else "",
        str(exits.get("cuts", "")),
        str(len(exits["exits"])) if "exits" in exits else "",
        told(trace), told(exits), told(host), worst(host), told(arm) + reduced(trace, arm), worst(arm),
        f"{host['executable_bytes'] / 1e3:.0f}" if "executable_bytes" in host else "",
        worst({"differences": both}) if train.get("ok") and train_arm.get("ok") else told(train),
        f"{peak / 1e9:.1f}",
    ]  # fmt: skip


def told(facts: Record) -> str:
    """Seconds, or that it failed."""
    if not facts:
        return ""
    return f"{facts['seconds']:.0f}" if facts["ok"] else "**failed**"


def reduced(trace: Record, arm: Record) -> str:
    """At what size, where it is not the network's own."""
    size = arm.get("input", trace.get("input"))
    return "" if size == trace.get("input") else f" at {size[1]}x{size[2]}"


def worst(facts: Record) -> str:
    return f"{max(facts['differences'].values()):.1e}" if facts.get("differences") else ""


def failure(record: Record) -> str:
    return next(
        f"{column}: {record[column]['error']}" for column in COLUMNS if not record.get(column, {}).get("ok", True)
    )
