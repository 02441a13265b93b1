"""Measure what the paper claims: the published checkpoints on the published benchmarks, claimed beside measured.

python -m jobs.claims --checkpoints DIR --data DIR --out URI [--check]

DIR of --checkpoints holds the published files under their names (cocolvis_icl_vit_huge.pth, sbd_vit_huge.pth, ...), DIR
of --data the benchmarks in folders of theirs (GrabCut, Berkeley, DAVIS, SBD, PascalVOC), raw or prepared. Both are
checked before anything runs: which of the six claims can be measured, what is missing and where people get it, and how
long it will take. Then each is measured with the settings of the paper, and claims.json and report.html hold the table.
What is missing costs only its own rows. The same command again continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs import ending, flags
from pipeline import storage
from pipeline.config.evaluation import ClaimsConfig
from pipeline.engine import lease
from pipeline.engine.main import main
from pipeline.errors import UserError

HEAD = ("benchmark", "model", "trained on", "metric", "claimed", "measured", "difference", "verdict")


def parse(args: list[str]) -> ClaimsConfig:
    return flags.parse(ClaimsConfig, args, prog="jobs.claims", about=__doc__, joining=("--only",), commas=("--only",))


def job(args: list[str]) -> None:
    options = parse(args)
    with lease.held(options.out, "jobs.claims"):
        carry_out(options)


def carry_out(options: ClaimsConfig) -> list[dict[str, Any]]:
    """Check, estimate, measure, and write the table; returns its rows."""
    from jobs import claims_plan, evaluate
    from pipeline.engine.connect import connect
    from pipeline.report.naming import model_name
    from pipeline.storage.json_files import read_json

    rows = claims_plan.look(options)
    _show_plan(rows)
    if not any(row.measurable for row in rows):
        raise UserError("None of the claims can be measured with what is there; the lines above say what is missing.")
    plans = claims_plan.evaluations(rows, options)
    connect()
    _show_estimate(claims_plan.work(rows), options)
    if options.check:
        return []
    summaries = {}
    for number, (folder, (members, config)) in enumerate(plans.items(), 1):
        names = ", ".join(row.claim.benchmark for row in members)
        model = model_name({"uri": config.checkpoint, "format": "published"})
        print(f"\n{number}/{len(plans)}: {model} on {names} ({folder})", flush=True)
        with lease.held(config.out, "jobs.claims"), ending.part_of_a_job():
            evaluate.carry_out(config)
        summaries[folder] = read_json(storage.join(config.out, "summary.json"))
    found = [_measured(row, plans, summaries) for row in rows]
    _write(options, found)
    return found


def _show_plan(rows: list[Any]) -> None:
    from pipeline.report.claims import BENCHMARKS, WEIGHTS

    for row in rows:
        claim = row.claim
        print(f"{claim.benchmark:<11}NoC@{claim.level} {claim.value:.2f}  {_model(claim):<32}{row.state}")
    absent = {row.claim.model: WEIGHTS[row.claim.model] for row in rows if row.weights is None}
    places = {row.claim.benchmark: BENCHMARKS[row.claim.benchmark].where for row in rows if row.data is None}
    if absent or places:
        print("Where people get what is missing:")
    for model, (name, where) in absent.items():
        print(f"  {name}: {where}, about {_gigabytes(model.variant):.1f} GB")
    for name, where in places.items():
        print(f"  {name}: {where}")


def _gigabytes(variant: str) -> float:
    """Size of a published file, float32 weights."""
    import torch

    from jobs.recipes.presets import MODELS, VIT
    from pipeline.model.segmenter import ClickSegmenter

    size = next(size for size, name in VIT.items() if name == variant)
    with torch.device("meta"):
        return sum(4 * p.numel() for p in ClickSegmenter(MODELS[size]).parameters()) / 1e9


def _model(claim: Any) -> str:
    return f"{claim.model.system} CFR-{claim.cfr_steps} {claim.model.variant}, {claim.model.trained_on}"


def _show_estimate(work: Any, options: ClaimsConfig) -> None:
    """How long the forward passes take on what the cluster has, by a measured rate of its matrix products."""
    from jobs.claims_plan import EFFICIENCY
    from pipeline.engine.device import cluster_tflops
    from pipeline.engine.progress import duration

    rate, what = cluster_tflops(options.device)
    seconds = work.expected / rate / EFFICIENCY
    text = f"{work.expected:,.0f} TFLOP on {what} of {rate:.2f} TFLOP/s: about {duration(seconds)} if the claims hold"
    if options.price:
        text += f", {seconds / 3600 * options.price:.2f} at {options.price:g} an hour"
    print(f"Estimate: {text}; at most {work.most / work.expected:.0f} times that (no object ever good enough)")


def _measured(row: Any, plans: Mapping[str, Any], summaries: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table: what was measured, whatever it may be compared with, and the verdict."""
    from pipeline.report.claims import compare, goes_by

    claim = row.claim
    folder = next((name for name, (members, _) in plans.items() if row in members), None)
    found: dict[str, Any] = {
        "benchmark": claim.benchmark,
        "model": f"{claim.model.system} CFR-{claim.cfr_steps} {claim.model.variant}",
        "trained_on": claim.model.trained_on,
        "metric": f"NoC@{claim.level}",
        "claimed": claim.value,
        "measured": None,
        "verdict": "not run",
        "note": row.missing,
        "evaluation": folder,
    }
    if folder is None:
        return found
    summary = summaries[folder]
    source = row.data.word.partition("=")[0]
    result = next(r for r in summary["results"] if r["dataset"] == source or goes_by(r["dataset"], claim.benchmark))
    judged = compare([claim], summary)[0]
    found |= {"measured": result["noc"].get(str(claim.level)), "objects": result["objects"]}
    found |= {"sha256": summary["checkpoint"]["sha256"], "mlflow_run": summary.get("mlflow_run")}
    if row.no_verdict or judged.status == "not run":
        return {**found, "verdict": "none", "note": row.no_verdict or judged.note}
    return {**found, "verdict": judged.status, "note": judged.note}


def _write(options: ClaimsConfig, found: list[dict[str, Any]]) -> None:
    from pipeline.report.blocks import Heading, Paragraph, Table
    from pipeline.report.claims import TOLERANCE
    from pipeline.report.pages import write_pages
    from pipeline.storage.json_files import write_json

    table = []
    for row in found:
        measured = row["measured"]
        shown = [f"{row['claimed']:.2f}", "–", "–"]
        if measured is not None:
            shown = [f"{row['claimed']:.2f}", f"{measured:.2f}", f"{measured - row['claimed']:+.2f}"]
        words = [row["benchmark"], row["model"], row["trained_on"], row["metric"]]
        reason = f": {row['note']}" if row["verdict"] in ("none", "not run") else ""
        table.append([*words, *shown, row["verdict"] + reason])
    text = (
        f"Figures of arXiv 2303.05620. Verified: within {TOLERANCE} clicks, on all objects of the benchmark, by the "
        "published network, training set, CFR steps and options. A network is known by its file's name and its shape; "
        "what stands in for it, or lacks objects, is measured and gets no verdict."
    )
    out = storage.absolute(options.out)
    marks = {"verified": "good", "not verified": "bad"}
    blocks = [Heading("The paper's claims", 1), Paragraph(text), Table(HEAD, table, len(HEAD), marks=marks)]
    write_pages(out, "The paper's claims", blocks)
    write_json(storage.join(out, "claims.json"), {"format": 1, "claims": found})
    widths = [max(len(line[i]) for line in [HEAD, *table]) for i in range(len(HEAD))]
    print()
    for line in [list(HEAD), *table]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    ending.say({"Claims": storage.join(out, "claims.json"), "Report": storage.join(out, "report.html")})


if __name__ == "__main__":
    main(job)
