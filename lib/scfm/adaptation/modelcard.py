"""The model card of a fit.

The sections are those of Mitchell et al. 2019 (10.1145/3287560.3287596), the head is the hub's. What the run knows is filled in; what
only a person knows (who may use it, what it must not decide) is asked for by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.adaptation.fitscores import N_BOOT
from scfm.inside.version import version

if TYPE_CHECKING:
    from scfm.adaptation.fitted import Fitted

TEMPLATE = Path(__file__).with_suffix(".md")
ON_THE_HUB = ("apache-2.0", "mit", "cc-by-4.0", "bsd-3-clause")  # licences that the hub knows by these names
ASKED = {  # what only a person knows, and what stands there until they say it
    "developers": "whoever ran `scfm.adapt`; name yourself with `fit.card(developers=...)`",
    "licence": "",
    "contact": "",
    "intended_use": "Naming cells of the same kind, tissue and technology as the training cells, in research and teaching.",
    "users": "People who can check the answers against marker genes.",
    "out_of_scope": "Diagnosis and any decision about a person; tissues, diseases, species or technologies that the training "
    "cells do not contain. A cell of a type that is not among the classes gets one of them all the same.",
    "ethics": "Expression profiles come from people. Whether the training cells may be used for this, and whose cells are missing "
    "among them, is for the one who trains to know; the run cannot.",
}


def card(fit: Fitted, **text: str) -> str:
    """The model card, markdown with the hub's header, filled from the run.

    ``text``: ``developers``, ``licence``, ``contact``, ``intended_use``, ``users``, ``out_of_scope``, ``ethics``,
    ``training_data``, ``evaluation_data``, ``caveats``: what a person adds, or says better than the default.
    """
    allowed = [*ASKED, "training_data", "evaluation_data", "caveats"]
    strange = sorted(text.keys() - set(allowed))
    if strange:
        raise TypeError(f"A card has no part {', '.join(map(repr, strange))}; it has {', '.join(allowed)}.")
    said = ASKED | text
    from huggingface_hub import ModelCard, ModelCardData

    licence = said["licence"] or _licence(fit)
    header = ModelCardData(
        license=licence.lower() if licence.lower() in ON_THE_HUB else "other",
        library_name="peft" if fit.peft_model is not None else "transformers",
        base_model=fit.base["name"],
        pipeline_tag="token-classification" if fit.choices.level == "gene" else "text-classification",
        tags=["single-cell", "cell-type-annotation", fit.base["kind"], fit.choices.method],
    )
    filled = ModelCard.from_template(
        header,
        template_path=str(TEMPLATE),
        method=fit.choices.method,
        base=fit.base["name"],
        classes=_classes(fit),
        details=_details(fit, said, licence),
        said=said,
        factors=_factors(fit),
        n_boot=f"{N_BOOT:,}",
        evaluation_data=said.get("evaluation_data", "") or _evaluation_data(fit),
        training_data=said.get("training_data", "") or _training_data(fit),
        analyses=_analyses(fit),
        cost=_cost(fit),
        caveats=_caveats(fit, said.get("caveats", "")),
        usage=_usage(fit),
    )
    return str(filled)


def _details(fit: Fitted, said: dict[str, str], licence: str) -> str:
    r, c, base = fit.report, fit.choices, fit.base
    heads = f" for each of {len(fit.columns)} label columns" if len(fit.columns) > 1 else ""
    level = "gene" if c.level == "gene" else "cell"
    return _bullets(
        {
            "Developed by": said["developers"],
            "Contact": said["contact"],
            "Kind": f"{level} classifier: {base['kind']} encoder, {_pooling(fit)}, {c.head} head{heads}",
            "Base": base["name"]
            + (f", file sha256 `{base['sha256']}`" if base["sha256"] else "")
            + f", weights digest `{base['weights']}`",
            "What was trained": f"{c.method}: {r.trained_parameters:,} of {r.total_parameters:,} parameters "
            f"({r.trained_share:.2%}), {r.head_parameters:,} of them in the head",
            "Settings": _settings(fit),
            "Date and software": f"{r.date}, scfm {version()}",
            "Licence": licence,
        }
    )


def _cost(fit: Fitted) -> str:
    r = fit.report
    best = f", best at step {r.best_step:,}" if r.best_step != r.steps else ""
    gpu = f", {r.peak_memory_gpu / 2**20:,.0f} MiB on the GPU" if r.peak_memory_gpu else ""
    joules = f"{r.joules:,.0f} J ({r.joules_from})" if r.joules is not None else f"not measured: {r.joules_from}"
    return _bullets(
        {
            "Machine": f"{r.machine}, {r.dtype}",
            "Time": f"{r.seconds:,.1f} s, {r.steps:,} steps{best}{', stopped early' if r.stopped_early else ''}",
            "Peak memory": f"{r.peak_memory / 2**20:,.0f} MiB{gpu}",
            "Energy": joules,
        }
    )


def _classes(fit: Fitted) -> str:
    return ", ".join(f"{len(names)} classes of {column}" for column, names in fit.head.classes.items())


def _pooling(fit: Fitted) -> str:
    where = {"cls": "the <cls> position", "mean": "the mean over a cell's genes"}[fit.choices.pooling or "mean"]
    if fit.choices.level == "gene":
        where = "each gene's position"
    layer = fit.choices.layer or 0
    return f"{where} of {'the last layer' if layer == 0 else f'layer {layer} (0 is the last)'}"


def _settings(fit: Fitted) -> str:
    import dataclasses

    from scfm.adaptation.choices import Choices

    default = dataclasses.asdict(Choices(method=fit.choices.method))
    changed = {k: v for k, v in dataclasses.asdict(fit.choices).items() if k != "method" and v != default[k]}
    rate = fit.choices.rate(fit.network.config.hidden_size)
    rates = (
        f"learning rate {rate:g} (head {fit.choices.rate_of_head():g})"
        if fit.report.steps
        else "logistic regression, C = 1"
    )
    return "; ".join(
        [rates, *(f"{k} = {v}" for k, v in changed.items()), "all others as scfm.adaptation.choices has them"]
    )


def _licence(fit: Fitted) -> str:
    from scfm.store import hub

    known = hub.catalogue()["models"].get(fit.base["name"].split(" (")[0], {})
    return known.get("licence", "that of the base and of the training cells, whichever allows less")


def _bullets(facts: dict[str, str]) -> str:
    return "\n".join(f"- **{name}**: {value}" for name, value in facts.items() if value) + "\n"


def _factors(fit: Fitted) -> str:
    data = fit.report.data
    known = [f"{key} {data[key]}" for key in ("organism", "tissue", "counts") if data.get(key)]
    scored = {row["group"] for e in fit.evaluations for row in e["rows"]}
    lines = [f"Training cells: {', '.join(known)}." if known else ""]
    lines.append(
        "Scores below are broken down by " + " and ".join(sorted(scored - {"all"})) + "."
        if scored - {"all"}
        else "Nothing has been scored by class or batch yet: run `fit.evaluate(cells, labels, batches)`."
    )
    lines.append("Donor, technology, depth and dissociation are the factors that usually matter for cells.")
    return " ".join(line for line in lines if line) + "\n"


def _training_data(fit: Fitted) -> str:
    r = fit.report
    lines = []
    if r.data.get("name"):
        d = r.data
        lines.append(
            f"`{d['name']}`"
            + (f": {d['title']}" if d.get("title") else "")
            + (f" ({d['citation']})" if d.get("citation") else "")
            + (f", doi:{d['doi']}" if d.get("doi") else "")
            + (f", sha256 `{d['sha256']}`" if d.get("sha256") else "")
            + (f"; licence {d['licence']}" if d.get("licence") else "")
            + ".\n"
        )
    of = "genes" if fit.choices.level == "gene" else "cells"
    lines.append(
        f"{r.n_cells:,} {of} learned from, {r.n_validation:,} kept aside to watch; tokenized for {r.data.get('vocabulary') or 'the base'}"
        f" ({r.data.get('tokens', 0):,} tokens in the median cell"
        + (f"; {r.data['overlap'].rstrip('.')}" if r.data.get("overlap") else "")
        + ").\n"
    )
    for column, counts in r.cells_per_class.items():
        lines.append(_table([column, of], [[name, f"{n:,}"] for name, n in counts.items()]))
    lines += [f"- {note}" for note in r.notes]
    return "\n".join(lines) + "\n"


def _evaluation_data(fit: Fitted) -> str:
    if not fit.evaluations:
        kept = f"{fit.report.n_validation:,} cells kept aside while training" if fit.report.n_validation else "none"
        return f"Validation: {kept}. No test set was scored: run `fit.evaluate(cells, labels, batches)` before you share this.\n"
    lines = []
    for evaluation in fit.evaluations:
        rows = [row for row in evaluation["rows"] if row["group"] == "all"]
        of = {row["column"]: row["n"] for row in rows}
        lines.append(
            f"- `{evaluation['name']}`: " + ", ".join(f"{n:,} labelled by {column}" for column, n in of.items())
        )
    return "\n".join(lines) + "\n"


def _analyses(fit: Fitted) -> str:
    lines = []
    for evaluation in fit.evaluations:
        for column in fit.columns:
            rows = [row for row in evaluation["rows"] if row["column"] == column]
            if not rows:  # none of these cells has a label of this column
                continue
            title = f"### {evaluation['name']}" + (f", {column}" if len(fit.columns) > 1 else "")
            lines.append(title + "\n")
            for group, first in (("all", ""), ("class", "class"), ("batch", "batch")):
                names = list(dict.fromkeys(row["name"] for row in rows if row["group"] == group))
                metrics = list(dict.fromkeys(row["metric"] for row in rows if row["group"] == group))
                if not names:
                    continue
                cell = {(row["name"], row["metric"]): row for row in rows if row["group"] == group}
                body = [
                    [name, f"{cell[name, metrics[0]]['n']:,}", *(_value(cell[name, m]) for m in metrics)]
                    for name in names
                ]
                lines.append(_table([first, "n", *(m.replace("_", " ") for m in metrics)], body))
    if fit.report.curve:
        wanted = ["step", "train_loss", "validation_loss", "validation_accuracy", "validation_balanced_accuracy"]
        there = [key for key in wanted if key in fit.report.curve[-1]]
        every = max(1, len(fit.report.curve) // 10)
        shown = [*fit.report.curve[:-1:every], fit.report.curve[-1]]
        body = [[f"{row[key]:.0f}" if key == "step" else f"{row[key]:.3f}" for key in there] for row in shown]
        lines += ["### Learning curve\n", _table([key.replace("_", " ") for key in there], body)]
    if not lines:
        lines.append("No cells were kept aside and no test set was scored.\n")
    return "\n".join(lines)


def _value(row: dict[str, Any]) -> str:
    if row["value"] != row["value"]:
        return "never answered"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _table(head: list[str], body: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows) + "\n"


def _caveats(fit: Fitted, more: str) -> str:
    lines = [more] if more else []
    for column, counts in fit.report.cells_per_class.items():
        few = [f"{name} ({n})" for name, n in counts.items() if n < 20]
        if few:
            lines.append(f"Learned from fewer than 20 members each ({column}): {', '.join(few)}.")
    worst = [row for e in fit.evaluations for row in e["rows"] if row["group"] == "class" and row["metric"] == "recall"]
    if worst:
        row = min(worst, key=lambda row: row["value"])
        lines.append(f"The class most often missed is {row['name']}: {row['value']:.0%} of {row['n']:,} found.")
    if "random weights" in fit.base["name"]:
        lines.append("The base is a random twin: it was never pretrained, and stands here for comparison only.")
    lines.append("One seed, one split. Put logistic regression on variable genes beside it before you trust it.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _usage(fit: Fitted) -> str:
    name = fit.base["name"].split(" (")[0]
    lines = [
        "```python",
        "import scfm",
        'fit = scfm.load_fit("this folder")',
        "fit.predict(fit.model.tokenize(adata))",
    ]
    if fit.peft_model is not None:
        inside = ".bert" if fit.choices.method in ("prefix", "prompt") else ""
        lines += [
            "",
            "import peft  # the adapter without the head",
            f'base = scfm.load_model("{name}").network{inside}',
        ]
        lines.append('peft.PeftModel.from_pretrained(base, "this folder")')
    elif fit.choices.method in ("partial", "full"):
        lines += ["", *fit.model.how_to_read]
    return "\n".join([*lines, "```", ""])
