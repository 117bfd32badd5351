"""Composing configurations: the only place, with the sweep, that knows Hydra's composer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from platformdirs import user_cache_path

from medexp.cli.experiment_file import Experiment, all_keys, check_keys, is_known, read_experiment
from medexp.cli.overrides import Sweep, axes_of, parse
from medexp.cli.places import conf_folder, find_experiment, groups, option_names
from medexp.core.errors import UsageError, did_you_mean

STEPS = "post_processing"
_SEVERAL = ("metrics", "callbacks")


def compose(
    experiment: str | None = None, overrides: Sequence[str] = (), *, config_dir: str | Path | None = None
) -> DictConfig:
    """Compose the configuration of one run, as `medexp train` does.

    Args:
        experiment: A name under experiments/, or any YAML path.
        overrides: As on the command line, e.g. `["loss=dice", "optimizer.lr=0.01"]`.
        config_dir: Folder with the user's own options, laid out like conf/.

    Returns:
        A configuration for `medexp.train`.

    Raises:
        UsageError: A key, group or option does not exist, a value is missing, or an override is a sweep.
    """
    composer = Composer(experiment, overrides, config_dir=config_dir)
    if composer.sweep.swept:
        raise UsageError(f"{', '.join(composer.sweep.swept)} takes several values; run a sweep with `medexp train -m`")
    return composer.compose_job(composer.jobs()[0])


class Composer:
    """An experiment file and overrides, checked, and the configuration of each job that they describe.

    Args:
        experiment: A name under experiments/, or any YAML path.
        overrides: As on the command line.
        config_dir: Folder with the user's own options.
    """

    def __init__(
        self, experiment: str | None, overrides: Sequence[str], *, config_dir: str | Path | None = None
    ) -> None:
        self.conf = [*([] if config_dir is None else [_existing(Path(config_dir))]), conf_folder()]
        self.groups = groups(self.conf)
        path = None if experiment is None else find_experiment(experiment)
        self.experiment = None if path is None else read_experiment(path, self.groups)
        if self.experiment is not None:
            _register(self.experiment)
        self.sweep = parse([self._fold_all(item) for item in overrides])
        self._check_sweep(self.sweep)

    def jobs(self) -> list[list[str]]:
        """The user's overrides of each job."""
        return self.sweep.jobs()

    def hydra_overrides(self, job: Sequence[str]) -> list[str]:
        """All overrides that Hydra needs for a job: search path, experiment, study, then the user's."""
        return [*self._fixed(), *job]

    def compose_job(self, job: Sequence[str]) -> DictConfig:
        """The finished configuration of one job."""
        sweep = parse(job)
        with self._hydra():
            self._check_options(sweep)
            base = self._compose([*self._search_path(), *self._choices(), *_group_overrides(sweep, self.groups)])
            self._check_keys(sweep, base)
            config = self._compose(self.hydra_overrides(job))
        return finish(config, axes=axes_of(job), modules=self._module_folders(), conf=self.conf[:-1])

    def _fixed(self) -> list[str]:
        name = "default" if self.experiment is None else self.experiment.name
        chosen = [] if self.experiment is None else [f"+experiment={_quoted(name)}"]
        return [*self._search_path(), *chosen, f"study={_quoted(name)}"]

    def _search_path(self) -> list[str]:
        folders = [f"file://{folder}" for folder in self.conf[:-1]]
        return [f"hydra.searchpath=[{','.join(map(_quoted, folders))}]"] if folders else []

    def _choices(self) -> list[str]:
        """The options that the experiment chooses, as overrides, to see which keys exist without its values."""
        if self.experiment is None:
            return []
        inline = {group: _inline_name(self.experiment) for group in self.experiment.inline}
        return [f"{group}={_option(option)}" for group, option in {**self.experiment.choices, **inline}.items()]

    def _module_folders(self) -> list[Path]:
        beside = [] if self.experiment is None else [self.experiment.path.parent]
        return [Path.cwd(), *beside]

    def _fold_all(self, typed: str) -> str:
        """`fold=all` becomes the list of all folds."""
        if typed != "fold=all":
            return typed
        with self._hydra():
            n_folds = self._compose(self._fixed()).dataset.split.get("n_folds")
        if n_folds is None:
            raise UsageError("fold=all needs dataset.split.n_folds, and this split has none; give the folds")
        return f"fold={','.join(map(str, range(n_folds)))}"

    @contextmanager
    def _hydra(self) -> Iterator[None]:
        """A composer of our own, whatever the caller (a notebook, Hydra itself) has initialised."""
        holder = GlobalHydra.instance()
        before = holder.hydra
        holder.clear()
        try:
            with initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3", job_name="medexp"):
                yield
        finally:
            holder.hydra = before

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        try:
            return hydra_compose("train", overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(_reason(error)) from error

    def _check_sweep(self, sweep: Sweep) -> None:
        """An experiment may not set values of a group that is swept: they would reach every option."""
        for key in sweep.swept if self.experiment is not None else []:
            set_here = self.experiment.body.get(key) if self.experiment is not None else None
            if key in self.groups and isinstance(set_here, Mapping) and self.experiment is not None:
                raise UsageError(
                    f"{self.experiment.path} sets {', '.join(f'{key}.{name}' for name in set_here)}, but {key} is swept, "
                    f"so every {key} would get it; make an option file of it (conf/{key}/NAME.yaml) or sweep another group"
                )

    def _check_options(self, sweep: Sweep) -> None:
        chosen = dict(self.experiment.choices) if self.experiment is not None else {}
        for override in sweep.parsed:
            if override.key_or_group in self.groups:
                chosen[override.key_or_group] = override.value()
        for group, option in chosen.items():
            names = option_names(group, self.conf)
            if isinstance(option, list) and group not in _SEVERAL:
                raise UsageError(f"{group} takes one option, got {option}")
            for name in map(str, option if isinstance(option, list) else [option]):
                if (
                    name not in names
                    and name != "null"
                    and (self.experiment is None or name != _inline_name(self.experiment))
                ):
                    raise UsageError(
                        f"{group}={name}: no such option{did_you_mean(name, names)} (known: {', '.join(names)})"
                    )

    def _check_keys(self, sweep: Sweep, base: DictConfig) -> None:
        if self.experiment is not None:
            check_keys(self.experiment.body, base, self.experiment.path)
        known = [*all_keys(base), *self.groups]
        for override in sweep.parsed:
            key = override.key_or_group
            if key in self.groups or key.split(".")[0].split("/")[0] == "hydra":
                continue
            if not is_known(key, base):
                raise UsageError(f"{override.input_line}: there is no key {key}{did_you_mean(key, known)}")


def finish(config: DictConfig, *, axes: Mapping[str, str], modules: Sequence[Path], conf: Sequence[Path]) -> DictConfig:
    """Fill in what only medexp knows, and see that nothing is missing.

    Args:
        config: As Hydra composed it.
        axes: The user's overrides.
        modules: Folders of the user's own modules.
        conf: Folders of the user's own options.

    Returns:
        The finished configuration.

    Raises:
        UsageError: A value is missing, or a step of post-processing does not exist.
    """
    config.axes = dict(axes)
    config.paths.modules = [str(folder) for folder in modules]
    config.paths.conf = [str(folder) for folder in conf]
    config.paths.cache = str(config.paths.cache or user_cache_path("medexp"))
    folders = [*conf, conf_folder()]
    config.post_processing.steps = [_step(item, folders) for item in config.post_processing.steps]
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UsageError(
            f"{', '.join(missing)} has no value; give it on the command line, e.g. {missing[0]}=..., or in the experiment"
        )
    return config


def _step(item: Any, folders: Sequence[Path]) -> Any:
    """A step by name, by name with knobs, or in full."""
    if isinstance(item, DictConfig) and "_target_" in item:
        return item
    name, knobs = (item, {}) if isinstance(item, str) else next(iter(item.items()))
    for folder in folders:
        file = folder / STEPS / f"{name}.yaml"
        if file.is_file():
            step = OmegaConf.load(file)
            for knob in knobs or {}:
                if knob not in step:
                    raise UsageError(f"{STEPS} step {name} has no knob {knob}{did_you_mean(knob, map(str, step))}")
            return OmegaConf.merge(step, knobs or {})
    names = option_names(STEPS, folders)
    raise UsageError(f"{STEPS} names {name}: no such step{did_you_mean(str(name), names)} (known: {', '.join(names)})")


def _reason(error: BaseException) -> str:
    """The message nearest to the root of a chain of errors; Hydra's outermost one may be empty."""
    texts = [str(error).strip()]
    while error.__cause__ is not None:
        error = error.__cause__
        texts.append(str(error).strip())
    return next((text for text in reversed(texts) if text), type(error).__name__)


def _register(experiment: Experiment) -> None:
    """Make an experiment an option of Hydra's, in launchers' children too."""
    store = ConfigStore.instance()
    defaults: list[Any] = [{f"override /{group}": option} for group, option in experiment.choices.items()]
    for group, content in experiment.inline.items():
        store.store(group=group, name=_inline_name(experiment), node=content, provider="medexp")
        defaults.append({f"override /{group}": _inline_name(experiment)})
    node = {"defaults": [*defaults, "_self_"], **experiment.body}
    store.store(group="experiment", name=experiment.name, node=node, package="_global_", provider="medexp")


def _inline_name(experiment: Experiment) -> str:
    return f"of_{experiment.name}"


def _group_overrides(sweep: Sweep, known: Sequence[str]) -> list[str]:
    pairs = zip(sweep.typed, sweep.parsed, strict=True)
    return [typed for typed, override in pairs if override.key_or_group in known]


def _option(option: Any) -> str:
    return f"[{','.join(map(str, option))}]" if isinstance(option, list) else str(option)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"--config-dir {folder} is no folder")
    return folder.resolve()
