"""Composing configurations: the only place, with the sweep, that knows Hydra's composer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Glob, Override, OverrideType
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from platformdirs import user_cache_path, user_data_path

from medexp.cli.checks import check_options, check_overrides, check_sweep
from medexp.cli.experiment_file import Experiment, check_keys, read_experiment
from medexp.cli.hydra_errors import reason
from medexp.cli.methods import KEY as METHOD
from medexp.cli.methods import spelt_out
from medexp.cli.overrides import Sweep, axes_of, is_hydras, parse, quoted, quoted_list
from medexp.cli.places import (
    INNER_GROUPS,
    conf_folder,
    find_experiment,
    groups,
    key_of,
    option_names,
    own_options,
    state_of_options,
)
from medexp.cli.steps import whole_steps
from medexp.core.config import leaves, plain
from medexp.core.errors import UsageError
from medexp.core.schema import check_kinds, check_values

TOP = "train"
_DEFAULT_STUDY = "default"
_FOLD_ALL = "fold=all"


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
        UsageError: A key, group or option does not exist, a value is missing or wrong, or an override is a sweep.
    """
    composer = Composer(experiment, overrides, config_dir=config_dir)
    if composer.sweep.swept:
        raise UsageError(f"{', '.join(composer.sweep.swept)} takes several values; run a sweep with `medexp train -m`")
    return composer.compose_jobs()[0]


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
        self.conf = [*([] if config_dir is None else [own_options(Path(config_dir))]), conf_folder()]
        self.groups = groups(self.conf)
        self._files = state_of_options(self.conf)
        path = None if experiment is None else find_experiment(experiment)
        self.experiment = None if path is None else read_experiment(path, self.groups)
        methods = {} if self.experiment is None else self.experiment.methods
        self._spelt_out = functools.partial(spelt_out, methods=methods, path=path)
        self._known: dict[tuple[str, ...], DictConfig] = {}
        self.sweep = self._expanded(parse([*self._axes_of_file(overrides), *overrides]))
        check_sweep(self.sweep, self.experiment, self.groups)

    def compose_jobs(self) -> list[DictConfig]:
        """The finished configuration of each job.

        Returns:
            One for each combination of the swept values.

        Raises:
            UsageError: A job has a wrong key, option or value, or lacks one.
        """
        jobs = self.sweep.jobs()
        with self.hydra():
            return [finish(self._compose(job), axes=axes_of(job)) for job in jobs]

    def chosen(self, group: str) -> str | None:
        """The option of a group that the command line or the experiment chooses; None where that is the default."""
        typed = [override.value() for override in self.sweep.parsed if override.key_or_group == group]
        by_file = None if self.experiment is None else self.experiment.choices.get(group)
        return str(typed[-1]) if typed else by_file

    def compose_trial(self, values: Mapping[str, str], *, number: int) -> DictConfig:
        """The finished configuration of a trial of a search.

        Args:
            values: A value for each swept key, as overrides spell it.
            number: The trial's number.

        Returns:
            The configuration.

        Raises:
            UsageError: It has a wrong key, option or value, or lacks one.
        """
        job = self.sweep.with_values(values)
        with self.hydra():
            config = finish(self._compose(job), axes=axes_of(job))
        config.trial = {"number": number}
        return config

    def check(self) -> list[DictConfig]:
        """The configuration of each job, refused where a key or option does not exist; values may be missing still."""
        with self.hydra():
            return [self._compose(job) for job in self.sweep.jobs()]

    def hydra_overrides(self) -> list[str]:
        """All overrides that Hydra needs: search path, experiment, study, the user's folders, then the user's own."""
        return [*self._fixed(), *self._spelt_out(self.sweep.typed)]

    def search_path(self) -> list[str]:
        """The override that makes Hydra look into the user's own folder of options, if there is one."""
        folders = [f"file://{folder}" for folder in self.conf[:-1]]
        return [f"hydra.searchpath={quoted_list(folders)}"] if folders else []

    @contextmanager
    def hydra(self) -> Iterator[Any]:
        """Hydra with medexp's options and this experiment; what a notebook has initialised stays as it is.

        Yields:
            Hydra's own object, for what its public functions do not offer.

        Raises:
            UsageError: Hydra refused something.
        """
        kinds = (GlobalHydra, JobRuntime, VersionBase)
        before = {kind: Singleton._instances.pop(kind) for kind in kinds if kind in Singleton._instances}
        try:
            with (
                initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3", job_name="medexp"),
                _registered(self.experiment),
            ):
                yield GlobalHydra.instance().hydra
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(reason(error)) from error
        finally:
            for kind in kinds:
                Singleton._instances.pop(kind, None)
            Singleton._instances.update(before)

    def _compose(self, job: Sequence[str]) -> DictConfig:
        job = self._spelt_out(job)
        sweep = parse(job)
        check_options(sweep, self.experiment, self.groups, folders=self.conf)
        chosen = tuple(item for item, override in _pairs(sweep) if self._is_option(override))
        if chosen not in self._known:
            self._known[chosen] = self._with_options(chosen)
        known = self._known[chosen]
        check_overrides(sweep, known, self.groups)
        values = [override for override in sweep.parsed if not self._is_option(override)]
        if all(override.type is OverrideType.CHANGE for override in values):
            # What Hydra does with values, without composing the same options again for each job of a sweep.
            config = copy.deepcopy(known)
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        else:
            config = _composed([*self._fixed(), *job])
        check_kinds(plain(config, resolve=False), plain(known, resolve=False))
        return config

    def _is_option(self, override: Override) -> bool:
        return override.key_or_group in self.groups or is_hydras(override.key_or_group)

    def _with_options(self, chosen: Sequence[str]) -> DictConfig:
        """The configuration with these options and the experiment's values, which are checked."""
        overrides = (*self.search_path(), *self._choices(), *chosen)
        inline = {} if self.experiment is None else self.experiment.inline
        config = copy.deepcopy(_composed_once(overrides, (repr(inline), self._files)))
        if self.experiment is not None:
            base = plain(config, resolve=False)
            check_keys(self.experiment.body, config, self.experiment.path)
            # What Hydra does with the experiment's own values, which it merges last.
            with open_dict(config):
                config.merge_with(self.experiment.body)
            check_kinds(plain(config, resolve=False), base)
        for key, value in self._own_values().items():
            OmegaConf.update(config, key, value)
        return config

    def _fixed(self) -> list[str]:
        values = self._own_values().items()
        return [
            *self.search_path(),
            *([] if self.experiment is None else [f"+experiment={quoted(self.experiment.name)}"]),
            *(f"{key}={quoted_list(value) if isinstance(value, list) else quoted(value)}" for key, value in values),
        ]

    def _own_values(self) -> dict[str, Any]:
        """What medexp itself gives: the study, unless the experiment names it, and the user's folders."""
        name, beside, body = _DEFAULT_STUDY, [], {}
        if self.experiment is not None:
            name, beside, body = self.experiment.name, [self.experiment.path.parent], self.experiment.body
        return {
            **({} if "study" in body else {"study": name}),
            "paths.modules": [str(folder) for folder in (Path.cwd(), *beside)],
            "paths.conf": [str(folder) for folder in self.conf[:-1]],
        }

    def _axes_of_file(self, overrides: Sequence[str]) -> list[str]:
        """What the experiment sweeps, but for keys that the command line gives itself."""
        given = {override.key_or_group for override in parse(overrides).parsed}
        swept = [] if self.experiment is None else self.experiment.sweep
        return [item for item in swept if item.partition("=")[0] not in given]

    def _choices(self) -> list[str]:
        """The options that the experiment chooses, as overrides, to see which keys exist without its values."""
        if self.experiment is None:
            return []
        inline = dict.fromkeys(self.experiment.inline, self.experiment.inline_name)
        return [f"{group}={_option(option)}" for group, option in {**self.experiment.choices, **inline}.items()]

    def _expanded(self, sweep: Sweep) -> Sweep:
        """`fold=all` and `loss=glob(*)` become lists of what there is."""
        typed = [self._without_glob(item, override) for item, override in _pairs(sweep)]
        if _FOLD_ALL in typed:
            folds = ",".join(map(str, range(self._n_folds([item for item in typed if item != _FOLD_ALL]))))
            typed = [f"fold={folds}" if item == _FOLD_ALL else item for item in typed]
        return parse(typed)

    def _without_glob(self, typed: str, override: Override) -> str:
        pattern = override._value
        if not isinstance(pattern, Glob):
            return typed
        group = override.key_or_group
        names = pattern.filter(option_names(group, self.conf)) if group in self.groups else []
        if not names:
            raise UsageError(f"{typed} matches no option of a group")
        return f"{group}={','.join(names)}"

    def _n_folds(self, typed: Sequence[str]) -> int:
        """Number of folds of the split, which must be one, whatever is swept."""
        of_data = [item for item in typed if item.lstrip("+").startswith(("dataset", f"{METHOD}="))]
        with self.hydra():
            found = {_folds_of(self._compose(job)) for job in parse(of_data).jobs()}
        n_folds = next(iter(found))
        if len(found) > 1 or n_folds is None:
            raise UsageError(
                f"{_FOLD_ALL} needs one number of folds (dataset.split.n_folds or n_groups), got {found}; give them"
            )
        return n_folds


def _folds_of(config: DictConfig) -> int | None:
    """Number of folds of the split, where its knobs say it."""
    knobs = (OmegaConf.select(config, f"dataset.split.{name}") for name in ("n_folds", "n_groups"))
    return next((value for value in knobs if isinstance(value, int)), None)


@functools.lru_cache(maxsize=64)
def _composed_once(overrides: tuple[str, ...], contents: Hashable) -> DictConfig:
    """What Hydra composes of options alone, kept as long as their contents stay the same; to be copied."""
    del contents
    return _composed(overrides)


def _composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, with the names of the chosen options."""
    config = hydra_compose(TOP, overrides=list(overrides), return_hydra_config=True)
    name_options(config, config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config


def name_options(config: DictConfig, choices: Mapping[str, Any]) -> None:
    """Let a configuration say which option was chosen of each of medexp's groups.

    Args:
        config: Gets the names under `options`.
        choices: Hydra's own account, with its own groups.
    """
    config.options = {
        group: option
        for group, option in sorted(choices.items())
        if isinstance(option, str) and (group in config or _has_inner(config, group))
    }


def _has_inner(config: DictConfig, group: str) -> bool:
    return group in INNER_GROUPS and OmegaConf.select(config, key_of(group)) is not None


def finish(config: DictConfig, *, axes: Mapping[str, str]) -> DictConfig:
    """Fill in what only medexp knows, and see that every value is there and of its kind.

    Args:
        config: As Hydra composed it.
        axes: The user's overrides.

    Returns:
        The finished configuration.

    Raises:
        UsageError: A value is missing or wrong, or a step of a chain does not exist.
    """
    config.axes = dict(axes)
    config.axes = {key: str(value) for key, value in config.axes.items()}
    config.paths.cache = str(config.paths.cache or user_cache_path("medexp"))
    config.paths.data = str(config.paths.data or user_data_path("medexp"))
    if not OmegaConf.select(config, "metrics"):
        raise UsageError("metrics is empty; choose one at least, e.g. metrics=dice")
    if OmegaConf.select(config, "callbacks") is None:
        OmegaConf.update(config, "callbacks", {}, force_add=True)
    _complete_chains(config)
    missing = [key for key, value in leaves(plain(config, resolve=False)) if value == "???"]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} has no value; give one on the command line ({missing[0]}=...) or in the experiment"
        )
    check_values(plain(config))
    return config


def _complete_chains(config: DictConfig) -> None:
    """Give each step of post-processing, and of what is derived from annotations, all its knobs."""
    folders = [*map(Path, config.paths.conf), conf_folder()]
    chain = plain(config.post_processing)["steps"]
    config.post_processing.steps = whole_steps("post_processing", chain, folders, group="post_processing")
    if "derive" in config.dataset:  # a user's own dataset may know nothing of it
        derive = plain(config.dataset, resolve=False)["derive"]
        config.dataset.derive = whole_steps("dataset.derive", derive, folders, group="derive")


@contextmanager
def _registered(experiment: Experiment | None) -> Iterator[None]:
    """Make an experiment an option of Hydra's for a while."""
    if experiment is None:
        yield
        return
    store = ConfigStore.instance()
    stored = [("experiment", experiment.name)]
    store.store(group="experiment", name=experiment.name, node=_node(experiment), package="_global_", provider="medexp")
    for group, content in experiment.inline.items():
        stored.append((group, experiment.inline_name))
        store.store(group=group, name=experiment.inline_name, node=content, provider="medexp")
    try:
        yield
    finally:
        for group, name in stored:
            node = store.repo
            for part in group.split("/"):
                node = node[part]
            del node[f"{name}.yaml"]


def _node(experiment: Experiment) -> dict[str, Any]:
    chosen: dict[str, Any] = {**experiment.choices, **dict.fromkeys(experiment.inline, experiment.inline_name)}
    overrides = [{f"override /{group}": option} for group, option in chosen.items()]
    return {"defaults": [*overrides, "_self_"], **experiment.body}


def _pairs(sweep: Sweep) -> Iterator[tuple[str, Override]]:
    return zip(sweep.typed, sweep.parsed, strict=True)


def _option(option: Any) -> str:
    return quoted_list(option) if isinstance(option, list) else quoted(option)
