"""The data sets: one file each, with licence, citation, layout and quirks."""

from types import ModuleType

from cot_builder.benchmarks import dtd, folder, mpdd, mvtec_ad, real_iad, sdd, visa

BENCHMARKS: dict[str, ModuleType] = {
    "real_iad": real_iad,
    "mvtec_ad": mvtec_ad,
    "visa": visa,
    "mpdd": mpdd,
    "dtd": dtd,
    "sdd": sdd,
    "folder": folder,
}
"""Each has ``BENCHMARK`` (:class:`~cot_builder.benchmarks.benchmark.Benchmark`) and ``layout(settings, records)``."""
