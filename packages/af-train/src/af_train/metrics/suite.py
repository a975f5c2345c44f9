"""The suite: chosen metrics over clips, one clip at a time, with intervals and what was skipped."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from af_core.errors import ConfigError, PipelineError
from af_core.graph.strict import decode
from af_core.plugins import BuildContext, Catalog

from af_train.metrics.bootstrap import intervals
from af_train.metrics.contract import ClipPair, Metric, UnmeasurableClipError
from af_train.metrics.report import Score, Skip, SuiteReport


@attrs.frozen
class MetricSuite:
    """Metrics by name. Frames of a clip are let go once every metric has observed it."""

    metrics: Mapping[str, Metric]

    def run(
        self,
        clips: Iterable[ClipPair],
        *,
        seed: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> SuiteReport:
        """Measure clips. A metric that measured none of them has no number, only skips.

        ``seed`` is that of the bootstrap; ``progress`` hears how many clips are done.
        """
        seen: dict[str, list[Any]] = {name: [] for name in self.metrics}
        skipped: list[Skip] = []
        num_clips = 0
        for clip in clips:
            num_clips += 1
            for name, metric in self.metrics.items():
                try:
                    seen[name].append(metric.observe(clip))
                except UnmeasurableClipError as reason:
                    skipped.append(Skip(clip.name or f"clip {num_clips}", name, str(reason)))
            progress(num_clips)
        scores: dict[str, Score] = {}
        for name, metric in self.metrics.items():
            if seen[name]:
                _add(scores, _scores(name, metric, seen[name], num_clips, seed))
        return SuiteReport(num_clips, scores, skipped)


def build_suite(
    catalog: Catalog, wanted: Mapping[str, Mapping[str, Any]], context: BuildContext
) -> MetricSuite:
    """Return a suite of metrics from the plugins: ``{"fid": {}, "ssim": {"every": 5}}``.

    A table may name the metric it is of with ``use``, so that one metric can stand twice. Raises
    ``UnknownNameError`` for a metric that nobody offers and ``PipelineError`` with every option
    that does not fit.
    """
    metrics: dict[str, Metric] = {}
    problems = []
    for name, table in wanted.items():
        offer = catalog.get("metric", str(table.get("use", name)))
        if offer.config is None:
            raise ConfigError(f"The metric {name!r} comes without a config class.")
        given = {key: value for key, value in table.items() if key != "use"}
        options, found = decode(given, offer.config, name)
        problems += found
        if options is not None and not problems:
            metrics[name] = options.build(context)
    if problems:
        raise PipelineError(problems)
    return MetricSuite(metrics)


def _scores(
    name: str, metric: Metric, seen: list[Any], num_clips: int, seed: int
) -> dict[str, Score]:
    spread = intervals(metric.summarise, seen, metric.num_resamples, seed)
    counts = (len(seen), num_clips - len(seen))
    return {
        number: Score(name, float(value), *spread.get(number, (None, None)), *counts)
        for number, value in metric.summarise(seen).items()
    }


def _add(scores: dict[str, Score], more: dict[str, Score]) -> None:
    """Add numbers; where two metrics give one name, the later says which metric it is of."""
    for number, score in more.items():
        scores[number if number not in scores else f"{score.metric}.{number}"] = score
