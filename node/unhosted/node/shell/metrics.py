"""Counters and histograms of the node, in Prometheus' text format with OpenTelemetry's GenAI names."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unhosted.node.core.inference import LoadedModel

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKEN_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
NS_PER_S = 1_000_000_000


class Metrics:
    """One registry per node, so that two nodes in a process do not add up."""

    def __init__(
        self,
        *,
        loaded: Callable[[], Iterable[LoadedModel]],
        counters: Callable[[], Mapping[str, Mapping[str, int]]],
        refused_connections: Callable[[], int],
        checks: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """loaded and counters as `EngineManager` gives them; checks: by the names of CHECK_GAUGES. All are
        asked at each scrape."""
        registry = self._registry = CollectorRegistry()
        labels = ("gen_ai_request_model", "unhosted_ring")
        self._requests = Counter(
            "unhosted_requests", "Requests by how they ended", (*labels, "outcome"), registry=registry
        )
        self._tokens = Counter(
            "gen_ai_client_token_usage",
            "Tokens of finished requests",
            (*labels, "gen_ai_token_type"),
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's acceptance to its first token",
            labels,
            buckets=TTFT_BUCKETS_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between a request's output tokens",
            labels,
            buckets=TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's acceptance to its end",
            labels,
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        registry.register(_EngineCollector(loaded, counters, refused_connections))
        registry.register(_CheckCollector(checks))

    def finished(
        self,
        *,
        model: str,
        ring: str,
        outcome: str,
        prompt_tokens: int,
        completion_tokens: int,
        first_token_s: float | None,
        duration_s: float,
    ) -> None:
        """Record one request. outcome: stop, length, tool_calls, cancelled, or a refusal's code."""
        self._requests.labels(model, ring, outcome).inc()
        self._duration.labels(model, ring).observe(duration_s)
        self._tokens.labels(model, ring, "input").inc(prompt_tokens)
        self._tokens.labels(model, ring, "output").inc(completion_tokens)
        if first_token_s is not None:
            self._first_token.labels(model, ring).observe(first_token_s)
            if completion_tokens > 1:
                rest_s = duration_s - first_token_s
                self._per_token.labels(model, ring).observe(rest_s / (completion_tokens - 1))

    def refused(self, *, model: str, ring: str, code: str) -> None:
        """Record a request that was not accepted: it has no duration worth a place among the others'."""
        self._requests.labels(model, ring, code).inc()

    def render(self) -> str:
        """The text for a scrape."""
        return generate_latest(self._registry).decode()


ENGINE_GAUGES = {
    "slots_busy": "Slots in use",
    "slots": "Slots",
    "queued": "Requests waiting",
    "restarts": "Times the engine died and came back",
}
ENGINE_COUNTERS = {
    "steps": "Batches through the model",
    "tokens_in": "Tokens fed, prompts and drawn ones alike",
    "tokens_out": "Tokens drawn",
    "decode_ns": "Wall time inside llama.cpp's decode",
    "python_cpu_ns": "CPU time of the engine's own loop outside llama.cpp",
    "process_cpu_ns": "CPU time of the engine's process, all threads",
}


CHECK_GAUGES = {
    "waiting": "Paid answers that wait to be read again",
    "answers": "Paid answers that were read again, of sellers that are remembered",
    "tokens": "Output tokens of them",
    "mismatches": "Of those whose noise is known, tokens that this machine would have drawn otherwise",
    "sellers_clear": "Sellers and models without suspicion",
    "sellers_watch": "Sellers and models that are checked more",
    "sellers_hold": "Sellers and models whose pay is held",
    "sellers_convict": "Sellers and models that were convicted",
}


class _CheckCollector(Collector):
    def __init__(self, checks: Callable[[], Mapping[str, int]]) -> None:
        self._checks = checks

    def collect(self) -> Iterator[Metric]:
        for name, value in self._checks().items():
            yield GaugeMetricFamily(f"unhosted_checks_{name}", CHECK_GAUGES[name], value=value)


class _EngineCollector(Collector):
    """What the engines say of themselves when asked: nothing is kept between scrapes."""

    def __init__(
        self,
        loaded: Callable[[], Iterable[LoadedModel]],
        counters: Callable[[], Mapping[str, Mapping[str, int]]],
        refused_connections: Callable[[], int],
    ) -> None:
        self._loaded = loaded
        self._counters = counters
        self._refused_connections = refused_connections

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "unhosted_offline_refused_connections",
            "Attempts to reach the network that --offline refused",
            value=self._refused_connections(),
        )
        loaded, counters = tuple(self._loaded()), self._counters()
        for name, text in ENGINE_GAUGES.items():
            gauge = GaugeMetricFamily(f"unhosted_engine_{name}", text, labels=("model",))
            for one in loaded:
                gauge.add_metric((one.model,), getattr(one, name))
            yield gauge
        for name, text in ENGINE_COUNTERS.items():
            is_time = name.endswith("_ns")
            shown = name.removesuffix("_ns") + "_seconds" if is_time else name
            counter = CounterMetricFamily(f"unhosted_engine_{shown}", text, labels=("model",))
            for model, counted in counters.items():
                counter.add_metric((model,), counted[name] / (NS_PER_S if is_time else 1))
            yield counter
