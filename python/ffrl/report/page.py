"""The page: one HTML file that needs no network, no other file and no library."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from ffrl.report import configuration, sections
from ffrl.report.contents import RunContents
from ffrl.report.markup import Markup, element, joined
from ffrl.report.numerals import in_words

_SECTIONS = (
    ("overview", "At a glance", sections.overview),
    ("configuration", "Configuration", configuration.configuration),
    ("provenance", "Data, seed and versions", configuration.provenance),
    ("curves", "Training curves", sections.curves),
    ("evaluation", "Evaluation", sections.evaluations),
    ("traversals", "Traversals", sections.traversals),
    ("experiments", "Experiments", sections.experiments),
)


def page(runs: Sequence[RunContents]) -> str:
    """The whole document about these runs, at least one."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    style, script = Markup(_resource("page.css")), Markup(_resource("charts.js"))
    # Nothing is loaded, and no script runs but the page's own, even if markup got in from a file.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · ffrl report"),
        element("style", style),
    )
    links = (element("a", name, href=f"#{key}") for key, name, _ in _SECTIONS)
    header = element(
        "header",
        element("p", "Flow Factorized Representation Learning", class_="kicker"),
        element("h1", title),
        element("p", trained(runs), class_="lede"),
        element("nav", *links, aria_label="Sections"),
    )
    body = (element("section", element("h2", name), make(runs), id=key) for key, name, make in _SECTIONS)
    footer = element(
        "footer",
        "Made by ffrl report from the files of the run folders. Rounded numbers show all digits under the pointer.",
    )
    whole = element("body", header, element("main", *body), footer, element("script", script))
    return joined(Markup("<!doctype html>\n"), element("html", head, whole, lang="en"), Markup("\n"))


def trained(runs: Sequence[RunContents]) -> str:
    """One sentence on what was trained, of the settings that all runs share."""
    flows = all(_at(run.config, "preset.system") in (None, "flow") for run in runs)
    of_flows = (("preset.time_embedding", "{} potentials"), ("preset.supervision", "{} supervision"))
    phrases = (
        ("data", "trained on {}"),
        ("preset.latent_dim", "latent dimension {}"),
        *(of_flows if flows else (("preset.system", "system {}"),)),
        ("budget.iterations", "{} iterations"),
        ("budget.minutes", "{} min of training"),
    )
    said = []
    for path, phrase in phrases:
        values = [_at(run.config, path) for run in runs]
        if values[0] is not None and all(value == values[0] for value in values):
            said.append(phrase.format(in_words(values[0])))
    text = ", ".join(said) or "What was trained stands under Configuration"
    return f"{text[0].upper()}{text[1:]}{'' if len(runs) == 1 else '; the runs differ as marked below'}."


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, int | float | str) else None


def _resource(name: str) -> str:
    return (files("ffrl.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
