"""ExtractionJobs in the cluster, as people follow them."""

import json
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from e2e.support.api import Object
from e2e.support.cluster import Cluster, has_condition
from e2e.support.extraction import Extraction
from e2e.support.servers import Postgres

KIND = "extractionjobs.extraction-operator.io"
SOURCE = "datasources.extraction-operator.io"
FINAL = {"Succeeded", "Failed", "Cancelled"}


@dataclass(frozen=True)
class Job:
    """An ExtractionJob with its DataSource in a namespace of the cluster."""

    namespace: Cluster
    extraction: Extraction
    name: str = "records"

    def apply(self, **spec: Any) -> "Job":
        """Apply secrets, source and job; return the job with what was changed of its spec."""
        changed = replace(self, extraction=replace(self.extraction, spec=self.extraction.spec | spec))
        changed.apply_source()
        changed.apply_alone()
        return changed

    def apply_source(self, **spec: Any) -> None:
        """Apply secrets and source alone."""
        self.extraction.apply_secrets(self.namespace)
        source = self.extraction.source
        self.namespace.apply(source | {"spec": source["spec"] | spec})

    def apply_alone(self) -> None:
        """Apply the job alone."""
        job = self.extraction.job
        self.namespace.apply(job | {"metadata": job["metadata"] | {"name": self.name}})

    @property
    def found(self) -> Object:
        """The object as it is."""
        return self.namespace.get(KIND, self.name)

    @property
    def uid(self) -> str:
        """The uid of the object."""
        return str(self.found["metadata"]["uid"])

    @property
    def status(self) -> dict[str, Any]:
        """Its status."""
        status: dict[str, Any] = self.found.get("status", {})
        return status

    def wait_for_phase(self, *phases: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until the job has one of these phases; return its status."""
        status: dict[str, Any] = self.namespace.wait_for(
            KIND, self.name, lambda found: found.get("status", {}).get("phase") in phases, seconds
        )["status"]
        return status

    def succeed(self, seconds: float = 120) -> dict[str, Any]:
        """Wait until the job has ended, which must be well; return its result."""
        status = self.wait_for_phase(*FINAL, seconds=seconds)
        assert status["phase"] == "Succeeded", json.dumps(status, indent=1)
        result: dict[str, Any] = status["result"]
        return result

    def fail(self, seconds: float = 120) -> dict[str, Any]:
        """Wait until the job has ended, which must be by a failure; return the condition Failed."""
        status = self.wait_for_phase(*FINAL, seconds=seconds)
        assert status["phase"] == "Failed", json.dumps(status, indent=1)
        return condition(status, "Failed")

    def wait_for_reason(self, reason: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until the job says that it waits for a reason; return the condition."""
        found = self.namespace.wait_for(
            KIND, self.name, lambda found: _reason(found.get("status", {})) == reason, seconds
        )
        return condition(found["status"], "Ready")

    def patch(self, **spec: Any) -> None:
        """Change fields of the spec."""
        self.namespace.merge(KIND, self.name, {"spec": spec})

    def delete(self) -> None:
        """Delete the object, and wait until it is gone."""
        self.namespace.kubectl("delete", KIND, self.name)

    def pods(self, role: str) -> list[Object]:
        """Return the job's pods of a role."""
        return self.namespace.get_all("pods", f"--selector={self.selector(role)}")

    def jobs(self, role: str) -> list[Object]:
        """Return the job's Jobs of a role."""
        return self.namespace.get_all("jobs", f"--selector={self.selector(role)}")

    def selector(self, role: str) -> str:
        """Return what chooses children of a role."""
        return f"extraction-operator.io/job={self.name},extraction-operator.io/role={role}"

    def wait_for_pod(self, role: str, phase: str = "Running", seconds: float = 60) -> Object:
        """Wait until a pod of a role has a phase; return it."""
        return self.namespace.wait_for_any(
            "pods", f"--selector={self.selector(role)}", lambda pod: pod["status"].get("phase") == phase, seconds
        )

    def events(self) -> list[str]:
        """Return the reasons of the Events about the job, in their order."""
        found = self.namespace.get_all("events", f"--field-selector=involvedObject.name={self.name}")
        found.sort(key=lambda event: event["metadata"]["creationTimestamp"])
        return [event["reason"] for event in found]


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of a status."""
    return next(entry for entry in status["conditions"] if entry["type"] == kind)


def ready_message(found: Object) -> str:
    """Return what an object says about whether it is ready; empty before it says anything."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((entry["message"] for entry in conditions if entry["type"] == "Ready"), "")


def _reason(status: dict[str, Any]) -> str:
    return next((entry["reason"] for entry in status.get("conditions", []) if entry["type"] == "Ready"), "")


def is_source_ready(source: Object) -> bool:
    """Tell whether a source's last check found it ready."""
    current = source.get("status", {}).get("observedGeneration") == source["metadata"]["generation"]
    return current and has_condition(source, "Ready")


def sessions(postgres: Postgres, namespace: str) -> list[str]:
    """Return the application names of the sessions that jobs of a namespace have on the server."""
    with postgres.connect() as connection:
        rows = connection.execute(
            "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE %s",
            [f"extraction/{namespace}/%"],
        ).fetchall()
    return [str(name) for (name,) in rows]


def count(connection: psycopg.Connection[tuple[Any, ...]], table: str) -> int:
    """Return the number of rows of a table."""
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])
