"""Train a recipe: python -m jobs.train RECIPE --data.train URI [--data.val URI] --out URI [--dotted.option VALUE ...]

The same command again continues the run. `--help` after a recipe lists every option with its value.
--config FILE takes the setting that a sweep found (best.json of jobs.tune icl): its values replace the recipe's, and an
option that is given wins over both.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from functools import partial

from jobs import ending, flags
from jobs.recipes import RECIPES
from pipeline import config, storage
from pipeline.config import io as config_io
from pipeline.engine import lease, stop
from pipeline.engine.main import main
from pipeline.errors import UserError, did_you_mean
from pipeline.redact import mask_uris
from pipeline.weights import located

SHORT = {"device": "train.device"}


def recipe_and_start(args: list[str], doc: str) -> tuple[str, config.TrainConfig, list[str]]:
    """The recipe that a command line names, its config with the setting of --config, and the other words.

    Raises:
        UserError: no such recipe, or a file that is no setting.
    """
    known = ", ".join(RECIPES)
    if not args or args[0] in ("-h", "--help"):
        print(f"{doc}\nRecipes: {known}", file=sys.stderr if not args else sys.stdout)
        sys.exit(0 if args else 2)
    if args[0] not in RECIPES:
        raise UserError(f"There is no recipe {args[0]!r}.{did_you_mean(args[0], RECIPES)} Recipes: {known}.")
    start = RECIPES[args[0]].config
    file, words = flags.config_flag(args[1:]), flags.without_config(args[1:])
    if file is not None:
        from pipeline.tune.setting_file import read_setting

        setting = read_setting(storage.absolute(file), "icl", config_io.flatten(start))
        start = config_io.replace(start, **setting)
    return args[0], start, words


def completed(run: config.TrainConfig, recipe: str) -> config.TrainConfig:
    """A parsed config with its paths made absolute.

    Raises:
        UserError: an option without which nothing can be trained.
    """
    for name in ("out", "data.train"):
        if not config_io.flatten(run)[name]:
            raise UserError(
                f"--{name} is missing: say where {'to write the run' if name == 'out' else 'the shards are'}."
            )
    if (needs := RECIPES[recipe].needs) and not run.model.start:
        raise UserError(f"Recipe {recipe} starts from {needs}: say where it is with --model.start URI.")
    given = {n: config_io.flatten(run)[n] for n in ("out", "data.train", "data.val")}
    uris = {n: storage.absolute(v) for n, v in given.items() if v}
    if run.model.start_uri:
        uris["model.start"] = located(run.model.start)
    return config_io.replace(run, **uris)


def parse(args: list[str]) -> config.TrainConfig:
    """A recipe's config, over it the setting of --config, over that the command line; paths made absolute."""
    recipe, start, words = recipe_and_start(args, __doc__ or "")
    about = RECIPES[recipe].about
    run = flags.parse(config.TrainConfig, words, prog=f"jobs.train {recipe}", about=about, default=start, short=SHORT)
    return completed(run, recipe)


def job(args: list[str]) -> None:
    run = parse(args)
    with lease.held(run.out, "jobs.train"):
        carry_out(run)


def carry_out(run: config.TrainConfig) -> None:
    """Train, or continue training, until the run's last step."""
    # Not above: torch, Ray and MLflow take seconds, and --help and a wrong option need none of them.
    from jobs.training_log import TrainingLog
    from pipeline.data.manifest import load_manifest
    from pipeline.engine.connect import connect
    from pipeline.engine.device import training_on_device
    from pipeline.evaluate.validate import validate_share
    from pipeline.model.segmenter import check_crop
    from pipeline.model.start import new_model
    from pipeline.tracking.run import import_early
    from pipeline.tracking.store_uri import resolve_tracking
    from pipeline.train.launch import fit
    from pipeline.train.run_folder import inputs_of, open_folder
    from pipeline.train.state import complete_checkpoints, step_of

    check_crop(run.model, run.data.crop, "--data.crop")
    check_crop(run.model, run.cfr.crop, "--cfr.crop")
    manifests = [load_manifest(uri) for uri in (run.data.train, run.data.val) if uri]
    checkpoints = complete_checkpoints(run.out)
    first = step_of(checkpoints[-1]) if checkpoints else 0
    if run.model.start and not checkpoints:
        new_model(run.model, run.model.start)  # a wrong start is the user's mistake: found before anything is begun
    tracking = resolve_tracking(run.tracking, fallback_root=run.out.rsplit("/", 1)[0])
    run = dataclasses.replace(run, tracking=tracking)
    begun = open_folder(run, inputs=inputs_of(run))
    if first >= run.total_steps:
        print(f"{run.out} is complete: {first} steps. Raise --train.steps to train on, or choose another --out.")
        say_ending(run, {})
        return
    print(f"{'continuing' if begun else 'training'} {run.recipe} at step {first} of {run.total_steps}: {run.out}")
    print(f"data: {manifests[0].rows} images, {manifests[0].objects} objects in {run.data.train}", flush=True)
    import_early(run.tracking)
    connect()
    run = training_on_device(run)
    asked = run
    with TrainingLog(run, first) as log:
        # Workers need no way to MLflow, and Ray shows what they were given.
        run = config_io.replace(run, **{"tracking.uri": mask_uris(run.tracking.uri)})
        done = fit(run, partial(validate_share, cfg=run) if run.data.val else None, log.on_event, log.run_id)
        if not done:
            saved = complete_checkpoints(run.out)
            reached = f"at step {step_of(saved[-1])}: {run.out} is saved" if saved else "before the first step"
            print(f"stopped {reached}, and the same command continues it", flush=True)
            raise SystemExit(stop.code())
    say_ending(asked, log.last_scores(), log.tracked.where)


def say_ending(run: config.TrainConfig, scores: Mapping[str, float], page: str = "") -> None:
    """What a finished run made, and what one does with it; `page`: of MLflow."""
    found = "".join(f", {name.removeprefix('val/')} {value:.3f}" for name, value in scores.items())
    what = f"Run of {run.recipe}, {run.total_steps} steps{found}"
    steps = [*next_steps(run), *ending.mlflow_ui(run.tracking.uri if run.tracking.enabled else "")]
    ending.say({what: run.out, "Report": storage.join(run.out, "report.html")}, steps, page)


def next_steps(run: config.TrainConfig) -> list[ending.Step]:
    """What one does with a trained model: measure it, and click."""
    model = ("--checkpoint", ending.place(run.out))
    data = f"val={ending.place(run.data.val)}" if run.data.val else "NAME=URI"
    measure = (*model, "--data", data, "--cfr-steps", "0", "1", "--out", ending.beside(run.out, "eval"))
    clicks = ("--images", "IMAGES", "--clicks", "CLICKS.csv", "--out", ending.beside(run.out, "predictions"))
    return [
        ("measure it by simulated clicks", ending.command("evaluate", *measure)),
        ("make masks of your own clicks", ending.command("predict", *model, *clicks)),
    ]


if __name__ == "__main__":
    main(job)
