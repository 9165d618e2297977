"""Resource names, from what people write: `support-bot@3`, `support-bot@production`, a job's bare id."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """Resource names within one project. A full name (`projects/...`) is passed through unchanged."""

    project: str = "default"

    @property
    def parent(self) -> str:
        return f"projects/{self.project}"

    def job(self, job: str) -> str:
        return self._within("jobs", job)

    def eval_run(self, run: str) -> str:
        return self._within("evalRuns", run)

    def gate_run(self, run: str) -> str:
        return self._within("gateRuns", run)

    def promotion(self, promotion: str) -> str:
        return self._within("promotions", promotion)

    def model(self, model: str) -> str:
        return self._within("models", model)

    def dataset(self, dataset: str) -> str:
        return self._within("datasets", dataset)

    def alias(self, model: str, alias: str) -> str:
        return f"{self.model(model)}/aliases/{alias}"

    def model_version(self, ref: str) -> str:
        """NAME@NUMBER, NAME@ALIAS or NAME (the newest)."""
        if ref.startswith("projects/"):
            return ref
        model, _, tail = ref.partition("@")
        if tail and not tail.isdigit() and tail != "latest":
            return self.alias(model, tail)
        return f"{self.model(model)}/versions/{tail or 'latest'}"

    def dataset_version(self, ref: str) -> str:
        """NAME@NUMBER or NAME (the newest sealed one)."""
        if ref.startswith("projects/"):
            return ref
        dataset, _, tail = ref.partition("@")
        return f"{self.dataset(dataset)}/versions/{tail or 'latest'}"

    def _within(self, collection: str, name: str) -> str:
        return name if name.startswith("projects/") else f"{self.parent}/{collection}/{name}"


def short(name: str) -> str:
    """The last part of a resource name."""
    return name.rpartition("/")[2]
