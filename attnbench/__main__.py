"""The command line: overrides make a run, a first word without `=` is a command."""

from __future__ import annotations

import sys

if sys.modules["attnbench"].__file__ is None:  # a folder of that name, as beside a checkout, hides what is installed
    sys.path.pop(0)
    del sys.modules["attnbench"]

import contextlib
import errno
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
import yaml  # type: ignore[import-untyped]
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import attnbench
from attnbench.config import processors, read_override
from attnbench.errors import Interrupted, UsageError, first_line, is_out_of_memory, nearest
from attnbench.files import whole, writable
from attnbench.loading import plugin_line
from attnbench.registry import Registry
from attnbench.schema import format_value
from attnbench.startup import end_imports
from attnbench.streams import lossy
from attnbench.sweep import Job, Launch, Outcome, follow, refuse_failures, sum_up, sweep_folder
from attnbench.words import add_forms, complaint, completed, make_parser, read_words, remember_sweep, with_forms


def list_components(registry: Registry, words: list[str]) -> None:
    """List every component there is to choose, and every plugin that failed to load; with NAME, all about one."""
    parser = make_parser("list", list_components)
    parser.add_argument("name", nargs="?", metavar="NAME", help="such as multihead, or attention=multihead")
    parser.add_argument("--json", action="store_true", help="the same, for programs")
    args = parser.parse_args(words)
    from attnbench.reports import catalogue

    if args.json:
        print(json.dumps(catalogue.as_json(registry, args.name), indent=2, ensure_ascii=False))
    elif args.name:
        catalogue.show_one(registry, args.name)
    else:
        catalogue.show_list(registry)


def evaluate(registry: Registry, words: list[str]) -> None:
    """Measure a run's best checkpoint on its test data, or on other data: evaluate RUN_FOLDER task.file=PATH."""
    parser = make_parser("evaluate", evaluate)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what to change in the run's config")
    args = parser.parse_args(words)
    from attnbench import run

    for tag, value in run.evaluate(args.run_folder, registry, args.overrides).items():
        print(f"{tag} {value:.6g}")


def compare(registry: Registry, words: list[str]) -> None:
    """Compare runs: seeds grouped, differences tested, costs beside them. Damaged and unfinished folders are listed."""
    parser = make_parser("compare", compare)
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="run folders, or what holds them; else runs"
    )
    parser.add_argument("--by", default="", help="what makes a group, such as attention,scoring; else all but the seed")
    parser.add_argument("--choose", default="", help="options whose best value by validation counts, as optimizer.lr")
    parser.add_argument("--metric", help="such as test/exact_match or train_seconds; else each task's primary metric")
    parser.add_argument("--baseline", help="the group to compare the others with, such as uniform; else the best")
    parser.add_argument(
        "--target", type=float, help="of the validation metric, for the time to it; else the task's goal"
    )
    add_forms(parser)
    parser.add_argument("--runs", action="store_true", help="with --csv or --json: a row for each run")
    parser.add_argument("--html", type=writable, metavar="FILE", help="write a page, with curves and pictures, too")
    args = parser.parse_args(words)
    from attnbench.reports import export, tables
    from attnbench.reports.compare import tabulate
    from attnbench.reports.runs import read_all

    if args.runs and args.form not in ("csv", "json"):
        raise UsageError("--runs: with --csv or --json, such as compare --runs --csv > runs.csv")
    folders = args.folders or [Path("runs")]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
    runs, damaged = read_all(folders)
    by, choose = ([key.strip() for key in keys.split(",") if key.strip()] for keys in (args.by, args.choose))
    try:
        compared, unfit = tabulate(
            runs, by=by, choose=choose, metric=args.metric, baseline=args.baseline, target=args.target
        )
    finally:
        tables.tell_left_out(damaged)
    tables.tell_left_out(unfit)
    left_out = [*damaged, *unfit]
    if args.form == "terminal":
        tables.show(compared)
    elif args.form == "json":
        print(export.runs_as_json(compared) if args.runs else export.as_json(compared, left_out), end="")
    elif args.form == "csv":
        print(export.runs_as_csv(compared) if args.runs else export.as_csv(compared), end="")
    else:
        print(export.as_latex(compared) if args.form == "latex" else tables.markdown(compared), end="")
    if args.html is not None:
        from attnbench.reports import page

        page.write(args.html, compared, left_out, ["compare", *words])
        print(f"{args.html}: written", file=sys.stderr)


def check(registry: Registry, words: list[str]) -> None:
    """Hold components to the laws of their kind: check additive multihead my_file.py; everything if none is named.

    Exits with 1 when a law is broken, and shows the smallest case that breaks it.
    """
    parser = make_parser("check", check)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a registered name, or a file or folder of components; and options, as task.file=PATH",
    )
    parser.add_argument("--device", default="cpu", help="where: cpu, cuda")
    parser.add_argument("--law", action="append", metavar="LAW", help="one law alone; may be said again for another")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes side by side; else one a processor")
    args = parser.parse_args(words)
    from attnbench import contract
    from attnbench.contract.findings import show_laws

    known = {component.name for component in registry.components.values()}
    options: dict[str, dict[str, Any]] = {}
    for word in [name for name in args.names if re.match(r"(scoring|attention|task)\.", name)]:
        args.names.remove(word)
        key, value = read_override(word)
        kind, _, option = key.partition(".")
        options.setdefault(kind, {})[option] = value
    paths = [Path(name) for name in args.names if name not in known and _is_path(name)]
    names = [name for name in args.names if Path(name) not in paths]
    registry = Registry.load(*paths) if paths else registry
    components = contract.named(registry, names) if names or not paths else []
    components += [component for path in paths for component in contract.written_in(registry, path)]
    jobs = args.jobs or processors()
    findings = contract.check_all(components, registry, args.device, args.law, options, jobs, paths)
    laws = [law for component in components for law in contract.laws_for(component.kind).items()]
    show_laws(findings, {name: law.__doc__ or "" for name, law in laws})
    if any(finding.status == "broken" for of_one in findings.values() for finding in of_one):
        raise SystemExit(1)


def _is_path(name: str) -> bool:
    """Tell whether `check` is asked for a file or folder, and refuse one that is no plugin."""
    path = Path(name)
    if path.is_dir() and not (path / "__init__.py").is_file():
        raise UsageError(f"{path}: it has no __init__.py; a folder is a plugin where that has its hook")
    named = path.suffix == ".py" or path.name != name
    if named and not path.exists():
        raise UsageError(f"{path}: no such file")
    return named or path.is_dir()


#: A word of `predict` that is an option; anything else that begins with "-" is text.
OPTION = re.compile(r"-h$|--([a-z]+(=|$)|$)")


def predict(registry: Registry, words: list[str]) -> None:
    """Let a trained model answer for a text of your own: predict RUN_FOLDER "text", or the text on standard input."""
    parser = make_parser("predict", predict)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument(
        "text", nargs="*", help="or the path of a picture, for a task of pictures; else standard input is read"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("prediction.png"),
        metavar="FILE",
        help="of the words' weights; prediction.png if not given",
    )
    # what begins with "-" and is no option is text; behind a space it is so to argparse too
    args = parser.parse_intermixed_args([word if OPTION.match(word) else re.sub("^-", " -", word) for word in words])
    from attnbench.reports import prediction

    text = prediction.read_text(args.text)
    picture = writable(prediction.picture_path(args.picture))
    from attnbench import run
    from attnbench.reports.attention import draw

    answer = run.predict(args.run_folder, registry, text)
    prediction.show(answer)
    if answer.attention is not None:
        with whole(picture) as path:
            draw(answer.attention).savefig(path)
        print(f"{picture}: written", file=sys.stderr)


def start(registry: Registry, overrides: list[str]) -> None:
    """Compose a run with Hydra, or several with -m, and run it."""
    words = read_words(overrides)
    many = any(word in ("-m", "--multirun", "hydra.mode=MULTIRUN") for word in words)
    remember_sweep(words if many else [])
    registry.store(check_options=not many)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own printing
    sys.argv[1:] = words
    job = Job(registry)
    outcomes: list[Outcome] = []
    try:
        hydra.main(version_base="1.3", config_path="pkg://attnbench.conf", config_name="config")(job)()
    finally:
        outcomes = sum_up()
    if job.error is not None:
        raise job.error
    if many:
        refuse_failures(outcomes)


def resume(registry: Registry, folder: Path, overrides: list[str]) -> None:
    """Go on with the run of a folder, to the result it would have had."""
    from attnbench import run

    end_imports()
    run.resume(folder, registry, overrides)


def new(registry: Registry, words: list[str]) -> None:
    """Write a plugin that works, to be changed where it says so: new scoring|attention|task NAME."""
    parser = make_parser("new", new)
    parser.add_argument("kind", help="scoring, attention or task")
    parser.add_argument("name", metavar="NAME", help="the word on the command line")
    parser.add_argument("--package", action="store_true", help="a project to install and share, not plugins/NAME.py")
    parser.add_argument("--tokens", action="store_true", help="a next-token task: a generator, and all else is there")
    parser.add_argument("--like", metavar="WORD", help="begin as a copy of that component, such as gla")
    args = parser.parse_args(words)
    from attnbench import scaffold

    plugin, *others = scaffold.new(
        registry, args.kind, args.name, package=args.package, tokens=args.tokens, like=args.like
    )
    print(f"wrote {', '.join(map(str, (plugin, *others)))}")
    if args.package:
        print(f"next: cd {plugin.parent}; pip install -e '.[test]'; pytest")
    else:
        print(f"next: python -m attnbench check {plugin}; python -m attnbench {args.kind}={args.name}")


def bench(registry: Registry, words: list[str]) -> None:
    """Measure time and memory by length, beside torch's own, and write bench.json and bench.png into a folder."""
    from attnbench.bench import BenchConfig

    defaults = " ".join(f"{f.name}={format_value(getattr(BenchConfig(), f.name))}" for f in fields(BenchConfig))
    parser = make_parser("bench", bench)
    parser.epilog = f"defaults: {defaults}; besides, attention.OPTION=VALUE and scoring.OPTION=VALUE; "
    parser.epilog += "attention=null measures scoring functions by themselves"
    parser.add_argument("words", nargs="*", metavar="key=value", help="such as attention=soft,multihead length=128,512")
    args = parser.parse_args(words)
    from attnbench import bench as benching
    from attnbench.reports import costs

    with costs.follow() as (say, tell):
        result = benching.run(registry, args.words, say, tell)
    folder = Path(result["config"]["output"])
    costs.draw(result, folder / "bench.png")
    costs.show(result)
    print(f"\n{folder / 'bench.json'} {folder / 'bench.png'}")


def tune(registry: Registry, words: list[str]) -> None:
    """Tune arms alike, then run each on seeds that chose nothing: tune task=recall attention=gla,multihead."""
    example = "task=recall attention=gla,deltanet optimizer.lr=1e-3,1e-2"
    args = with_forms(make_parser("tune", tune), example).parse_args(words)
    from attnbench import report, suite
    from attnbench.reports import card_export, card_figures

    chosen, arms = suite.read_tuning(args.words)
    plan = suite.Plan(chosen, registry)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the table alone is the answer
            follow(registry, plan.follow, read_words(arms))
    finally:
        if plan.cells:
            card_export.FORMS[args.form](report.card(plan, shlex.join(["python", "-m", "attnbench", "tune", *words])))
            picture = sweep_folder(arms) / "rates.png"
            card_figures.draw_rates(plan.cells, picture)
            print(f"{picture}: written", file=sys.stderr)


def run_suite(registry: Registry, words: list[str]) -> None:
    """Try mechanisms on every task of a suite, tuned alike, and write the report card: suite attention=mine.

    suite=NAME chooses the suite, standard or quick, or a file of your own; task=NAME,NAME some of its tasks.
    """
    parser = with_forms(make_parser("suite", run_suite), "attention=multihead scoring=rope suite=quick")
    args = parser.parse_args(words)
    from attnbench import contract, report, suite
    from attnbench.reports import card_export, card_page

    chosen, arms = suite.read_suite(args.words)
    found, notes = report.read_references(chosen, registry)
    laws: dict[str, list[contract.Finding]] = {}
    plan = suite.Plan(chosen, registry, grids={cell.task: [rate for rate, _ in cell.tried] for cell in found.cells})

    def obey_and_follow(words: list[list[str]], launch: Launch) -> None:
        laws.update(contract.check_arms(words, registry))
        plan.follow(words, launch)

    try:
        with contextlib.redirect_stdout(sys.stderr):
            follow(registry, obey_and_follow, read_words(arms))
    finally:
        if plan.cells:
            command = shlex.join(["python", "-m", "attnbench", "suite", *words])
            card = report.card(plan, command, found, laws, notes)
            card_export.FORMS[args.form](card)
            page = sweep_folder(arms) / "report.html"
            card_page.write_page(card, page)
            print(f"{page}: written", file=sys.stderr)


COMMANDS: Mapping[str, Callable[[Registry, list[str]], None]] = {
    "list": list_components,
    "evaluate": evaluate,
    "predict": predict,
    "compare": compare,
    "check": check,
    "new": new,
    "bench": bench,
    "tune": tune,
    "suite": run_suite,
}


def dispatch(words: list[str]) -> None:
    """Do what the command line says."""
    word = words[0] if words else ""
    if "--version" in words and word not in COMMANDS:
        print(f"attnbench {attnbench.__version__}")
        return
    registry = Registry.load()
    if word != "list":
        for failure in registry.failures:
            print(f"attnbench: {failure}", file=sys.stderr)
    try:
        if word in ("--help", "-h", "help"):
            from attnbench.reports.usage import show_help

            show_help(registry, COMMANDS)
        elif word in COMMANDS:
            end_imports()
            COMMANDS[word](registry, words[1:])
        elif word and "=" not in word and not word.startswith(("-", "+", "~")):
            raise UsageError(f"{word}: no such command; {nearest(word, [*COMMANDS, 'help'])}; a run is GROUP=NAME")
        elif resumed := next((word for word in words if word.startswith("resume=")), None):
            resume(registry, Path(resumed.removeprefix("resume=")), [word for word in words if word != resumed])
        elif not completed(words, COMMANDS):
            start(registry, words)
    except (HydraException, OmegaConfBaseException, OSError, yaml.YAMLError) as error:
        raise UsageError(complaint(error, registry) + plugin_line(error)) from error


def answer(words: list[str]) -> int:
    """Do what the command line says, and turn what a user can mend into one line; return the exit code."""
    try:
        dispatch(words)
    except UsageError as error:
        print(f"attnbench: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("attnbench: interrupted", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "lower trainer.batch_size, trainer.eval_batch_size, or a width"
        print(f"attnbench: not enough memory: {advice} ({first_line(error)[:160]})", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"attnbench: interrupted; to go on: python -m attnbench resume={error}", file=sys.stderr)
        return 130
    return 0


def main() -> int:
    """Run; of what could not be printed the reader is told, unless he left (a pipe that ended)."""
    words = sys.argv[1:]
    with lossy() as streams:
        code = answer(words)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # the terminal may have closed it
                stream.flush()
        lost = next((f.error for f in streams if f.error and f.error.errno != errno.EPIPE), None)
        if lost is not None:
            print(f"attnbench: not all could be printed: {lost.strerror}", file=sys.stderr)
            code = code or int(words[:1] != [] and words[0] in COMMANDS)  # a run's results are in its folder
    return code


if __name__ == "__main__":
    sys.exit(main())
