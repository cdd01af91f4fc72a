"""Manifests of the children: harmless pods, names that fit, and manifests that are read as they were declared."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extraction_contract.load import load_files
from extraction_contract.models import ExtractionJob
from extraction_operator.plan import names
from extraction_operator.plan.children import check_job, clean_job, lead_job, work_job
from extraction_operator.plan.names import child_name, run_id
from extraction_operator.plan.pods import Declared
from extraction_operator.plan.values import Role
from support.plan_world import DIGEST, SETTINGS, UID, make_job, make_source
from support.pod_rules import violations

VOLUME = {"volume": {"claimName": "lake"}}
S3 = {
    "s3": {
        "bucket": "lake", "endpoint": "https://minio:9000", "credentialsSecretRef": {"name": "keys"},
        "caSecretRef": {"name": "authorities", "key": "s3.crt"},
    }
}  # fmt: skip
TEMPLATE = {
    "labels": {"team": "x", names.ROLE: "mine"},
    "annotations": {"note": "y", names.MANIFESTS: "mine"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}],
    "affinity": {"nodeAffinity": {"x": 1}, "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}},
    "resources": {"requests": {"cpu": 2}, "limits": {"memory": "4Gi"}},
    "serviceAccountName": "reader",
    "priorityClassName": "low",
    "imagePullSecrets": [{"name": "registry"}],
}


def declared(consistency: str = "Snapshot", source: dict[str, Any] | None = None, **spec: Any) -> Declared:
    return Declared(
        job=make_job(**spec), source=make_source(**(source or {})), settings=SETTINGS, attempt=2,
        consistency=consistency, pool=3,
    )  # fmt: skip


def children_of(found: Declared) -> dict[str, dict[str, Any]]:
    """Return every kind of child."""
    return {
        "lead": lead_job(found, parallelism=4, one_pod=False),
        "work": work_job(
            found, number=7, lead=("lead-name", "lead-uid"), bundles=12, parallelism=4, plan_digest=DIGEST,
            beside_lead=True,
        ),
        "clean": clean_job(found),
        "check": check_job(found.source, SETTINGS, number=2, request="now"),
    }  # fmt: skip


SHAPES = {
    "s3": declared(sink=S3),
    "volume": declared(sink=VOLUME),
    "template": declared(podTemplate=TEMPLATE),
    "per partition": declared("PerPartition"),
    "own authorities": declared(source={"connection": {
        "host": "db", "database": "d", "sslMode": "verify-full", "caSecretRef": {"name": "authorities"},
    }}),
}  # fmt: skip
ALL = [
    pytest.param(job, id=f"{shape}-{kind}")
    for shape, found in SHAPES.items()
    for kind, job in children_of(found).items()
]


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def containers_of(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pod = pod_of(job)
    return {found["name"]: found for found in [*pod.get("initContainers", []), *pod["containers"]]}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


@pytest.mark.parametrize("job", ALL)
def test_pods_are_restricted_and_have_no_token(job):
    pod = pod_of(job)
    assert violations(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never"
    assert json.loads(json.dumps(job)) == job
    for container in containers_of(job).values():
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["terminationMessagePolicy"] == "File"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("job", ALL)
def test_secrets_are_files_and_never_values(job):
    for container in containers_of(job).values():
        assert not [entry for entry in container["env"] if "secretKeyRef" in str(entry)]
        assert "envFrom" not in container
    [volume] = [found for found in pod_of(job)["volumes"] if found["name"] == "secrets"]
    paths = {item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]}
    assert {"shop-reader/username", "shop-reader/password"} <= paths


def test_every_secret_of_the_manifests_is_mounted():
    masks = [
        {"column": name, "method": "Hash", "keySecretRef": {"name": "mask", "key": key}}
        for name, key in (("a", "one"), ("b", "two"), ("c", "one"))
    ]
    found = declared(
        sink=S3,
        masks=masks,
        source={"connection": {"host": "db", "database": "d", "caSecretRef": {"name": "authorities"}}},
    )
    [volume] = [volume for volume in pod_of(clean_job(found))["volumes"] if volume["name"] == "secrets"]
    items = {
        item["path"]: source["secret"].get("optional", False)
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert items == {
        "shop-reader/username": False, "shop-reader/password": False, "keys/accessKeyId": False,
        "keys/secretAccessKey": False, "keys/sessionToken": True, "authorities/ca.crt": False,
        "authorities/s3.crt": False, "mask/one": False, "mask/two": False,
    }  # fmt: skip


@pytest.mark.parametrize("job", ALL)
def test_labels_are_those_of_the_operator_on_job_and_pod(job):
    labels, pods = job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]
    assert labels.items() <= pods.items(), "no template takes them away"
    assert labels[names.MANAGED_BY] == "extraction-operator"
    assert labels[names.ATTEMPT] == "2"
    assert set(labels) - {names.NUMBER, names.JOB, names.SOURCE} == {
        names.OWNER_UID, names.ROLE, names.ATTEMPT, names.MANAGED_BY,
    }  # fmt: skip
    assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value) for value in labels.values())


def test_owners():
    found = children_of(declared())
    owners = {kind: [o["kind"] for o in job["metadata"].get("ownerReferences", ())] for kind, job in found.items()}
    assert owners == {"lead": ["ExtractionJob"], "work": ["Job"], "clean": [], "check": ["DataSource"]}
    [lead] = found["work"]["metadata"]["ownerReferences"]
    assert (lead["name"], lead["uid"], lead["controller"]) == ("lead-name", "lead-uid", True)


def queued(**labels: str) -> Declared:
    found = declared()
    metadata = found.job.metadata.model_copy(update={"labels": {names.QUEUE: "night"} | labels})
    return replace(found, job=found.job.model_copy(update={"metadata": metadata}))


def in_queue(found: Declared, *, parallelism: int = 4) -> dict[str, Any]:
    return work_job(
        found, number=7, lead=None, bundles=12, parallelism=parallelism, plan_digest=DIGEST, beside_lead=False,
        queue="night",
    )  # fmt: skip


def test_jobs_in_a_queue_of_kueues_are_its_own_and_their_pods_arent():
    found = queued(**{names.QUEUE_PRIORITY: "low"})
    jobs = children_of(found) | {"work": in_queue(found)}
    labels = {kind: {name: value for name, value in job["metadata"]["labels"].items() if "kueue" in name}
              for kind, job in jobs.items()}  # fmt: skip
    mine = {"kueue.x-k8s.io/queue-name": "night", "kueue.x-k8s.io/priority-class": "low"}
    assert labels == {"lead": mine, "work": mine, "clean": {}, "check": {}}
    for job in jobs.values():
        assert "kueue" not in json.dumps(job["spec"]["template"]["metadata"]["labels"])
        assert "suspend" not in job["spec"], "that is Kueue's to say"
    # Of a Job that a queued Job controls Kueue thinks that it has its quota already.
    [owner] = jobs["work"]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["controller"]) == ("ExtractionJob", True)
    assert names.QUEUE_PRIORITY not in in_queue(queued())["metadata"]["labels"]


def test_kueue_may_start_fewer_workers_but_not_fewer_than_one():
    assert in_queue(queued())["metadata"]["annotations"] == {"kueue.x-k8s.io/job-min-parallelism": "1"}
    assert "annotations" not in in_queue(queued(), parallelism=1)["metadata"], "Kueue refuses it"
    assert "annotations" not in children_of(declared())["work"]["metadata"]


def test_a_barred_lead_isnt_queued():
    assert names.QUEUE not in lead_job(queued(), parallelism=1, one_pod=False, barred=True)["metadata"]["labels"]


def test_connections_are_a_resource_where_that_is_wanted():
    """A pod's request is that of its sidecar, and the greater of what goes on beside it: planning or reading."""
    for found in (declared(), SHAPES["template"]):
        metered = replace(found, settings=replace(SETTINGS, request_connections=True))
        for kind, job in children_of(metered).items():
            for name, container in containers_of(job).items():
                wanted = {"hold": "1", "plan": "1", "publish": "3", "work": "3"}.get(name)
                for part in ("requests", "limits"):
                    assert container["resources"][part].get("extraction-operator.io/connections") == wanted, kind
        assert "connections" not in json.dumps([pod_of(job) for job in children_of(found).values()])


def test_a_clean_up_goes_by_itself_as_nobody_owns_it():
    assert clean_job(declared())["spec"]["ttlSecondsAfterFinished"] > 0


def test_the_lead_is_never_repeated_and_holds_first():
    job = lead_job(declared(), parallelism=4, one_pod=False)
    spec = job["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "TerminatingOrFailed")
    assert spec["activeDeadlineSeconds"] > declared().job.spec.active_deadline_seconds
    assert list(containers_of(job)) == ["hold", "plan", "publish"]
    assert containers_of(job)["hold"]["restartPolicy"] == "Always"
    assert "restartPolicy" not in containers_of(job)["plan"]
    annotations = spec["template"]["metadata"]["annotations"]
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"
    assert list(containers_of(SHAPES_LEAD_WITHOUT_SNAPSHOT)) == ["plan", "publish"]


SHAPES_LEAD_WITHOUT_SNAPSHOT = lead_job(declared("PerPartition"), parallelism=1, one_pod=False)


def test_workers_fail_at_once_by_terminal_codes_and_never_by_disruptions():
    spec = children_of(declared())["work"]["spec"]
    terminal, disrupted = spec["podFailurePolicy"]["rules"]
    assert terminal["action"] == "FailJob"
    assert terminal["onExitCodes"] == {"containerName": "work", "operator": "In", "values": list(range(10, 40))}
    assert disrupted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 12, 4)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"], spec["podReplacementPolicy"]) == (3, 0, "Failed")


def test_pods_are_told_what_the_document_says():
    found = children_of(declared())
    run = {
        "EXTRACTION_ATTEMPT": "2", "EXTRACTION_RUN_ID": run_id(UID, 2), "EXTRACTION_CONSISTENCY": "Snapshot",
        "EXTRACTION_POOL": "3",
    }  # fmt: skip
    assert environment(containers_of(found["clean"])["clean"]) == run
    assert environment(containers_of(found["lead"])["plan"]) == run | {"EXTRACTION_PARALLELISM": "4"}
    assert environment(containers_of(found["work"])["work"]) == run | {
        "EXTRACTION_BUNDLES": "12", "EXTRACTION_PLAN_DIGEST": DIGEST,
    }  # fmt: skip


def test_a_template_is_followed_where_it_may():
    found = children_of(SHAPES["template"])
    pod = pod_of(found["work"])
    assert (pod["nodeSelector"], pod["serviceAccountName"], pod["priorityClassName"]) == (
        {"disk": "ssd"},
        "reader",
        "low",
    )
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert containers_of(found["work"])["work"]["resources"] == {"requests": {"cpu": 2}, "limits": {"memory": "4Gi"}}
    assert containers_of(found["lead"])["hold"]["resources"]["limits"] == {"memory": SETTINGS.hold.memory}
    keys = [toleration["key"] for toleration in pod["tolerations"]]
    assert keys == ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"]
    assert len(pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]) == 2
    metadata = found["work"]["spec"]["template"]["metadata"]
    assert metadata["labels"]["team"] == "x"
    assert metadata["annotations"][names.MANIFESTS].startswith('{"apiVersion"')


def test_a_toleration_of_everything_needs_no_other():
    found = declared(podTemplate={"tolerations": [{"operator": "Exists"}]})
    assert len(pod_of(clean_job(found))["tolerations"]) == 1


@given(
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", fullmatch=True),
    numbers=st.lists(st.integers(0, 99_999), min_size=1, max_size=2),
    role=st.sampled_from(Role),
)
def test_names_fit_host_names_of_pods(name, numbers, role):
    found = child_name(name, UID, role, *numbers)
    assert len(f"{found}-99999") <= 63
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", found)
    assert found.endswith("-".join([UID[:8], role.value, *map(str, numbers)]))


# Manifests ---------------------------------------------------------------------------------------------------------


def read_back(job: dict[str, Any], folder: Path) -> Any:
    """Read the manifests as a pod does."""
    file = folder / "job.json"
    file.write_text(job["spec"]["template"]["metadata"]["annotations"][names.MANIFESTS], encoding="utf-8", newline="")
    return load_files([file])


def same(found: Any, expected: Any) -> None:
    assert found.spec == expected.spec
    # As written, not only as compared: 64Mi and 67108864 are equal.
    kept = {"mode": "json", "by_alias": True, "exclude_defaults": True}
    assert found.spec.model_dump(**kept) == expected.spec.model_dump(**kept)
    assert (found.metadata.name, found.metadata.uid) == (expected.metadata.name, expected.metadata.uid)


@pytest.mark.parametrize("shape", SHAPES)
def test_manifests_are_read_as_they_were_declared(shape, tmp_path):
    found = SHAPES[shape]
    manifests = read_back(clean_job(found), tmp_path)
    same(manifests.job(), found.job)
    [source] = manifests.sources.values()
    same(source, found.source)
    [source] = read_back(children_of(found)["check"], tmp_path).sources.values()
    same(source, found.source)


def test_quantities_and_durations_are_kept_as_written(tmp_path):
    found = declared(
        partitioning={"targetBytes": "1.5G"}, snapshot={"maxAge": "1h30m"},
        sink=S3 | {"format": {"targetFileBytes": 67108864}},
        source={"limits": {"bytesPerSecond": "200Mi", "yieldToDDLAfter": "7s"}, "pool": {"size": 3}},
    )  # fmt: skip
    manifests = read_back(clean_job(found), tmp_path)
    assert str(manifests.job().spec.partitioning.target_bytes) == "1.5G"
    same(manifests.job(), found.job)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60),
)
def test_any_text_arrives_as_it_is(text, tmp_path):
    """What YAML takes for the end of a line, or doesn't take at all, would otherwise change a query silently."""
    found = declared(where=f"c = '{text}'")
    assert read_back(clean_job(found), tmp_path).job().spec.where == f"c = '{text}'"


@pytest.mark.parametrize(
    "character", ["\x7f", "\x85", "\x9f", "\u2028", "\u2029", "\ufeff", "\uffff", "\U0001f600", "\t", "\n"]
)
def test_characters_that_yaml_treats_in_its_own_way_arrive(character, tmp_path):
    found = declared(where=f"c = ' {character} '")
    assert read_back(clean_job(found), tmp_path).job().spec.where == f"c = ' {character} '"


def test_the_status_isnt_part_of_the_manifests(tmp_path):
    found = declared()
    moved = found.job.model_copy(update={"status": found.job.status.model_copy(update={"attempt": 5})})
    again = Declared(moved, found.source, SETTINGS, 2, "Snapshot", 3)
    assert clean_job(again) == clean_job(found)
    assert isinstance(read_back(clean_job(again), tmp_path).job(), ExtractionJob)
