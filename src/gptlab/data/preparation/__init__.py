"""Sources to a dataset of tokens: filtered, without duplicates, resumable, with a report.

sources -> items -> worker processes: filters, digests, ids -> in order: duplicates, shards
(reading)           (examine)                                  (collect)      journal: where
"""

from gptlab.data.preparation.pipeline import PrepareResult, prepare

__all__ = ["PrepareResult", "prepare"]
