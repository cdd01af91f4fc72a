"""What the chart makes of values, and what a real API server says to it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.charts.conftest import CHART, Object, Render
from e2e.support.api_server import ApiServer
from extraction_operator.cluster import kinds

PLURALS = {
    "ServiceAccount": "serviceaccounts", "Service": "services", "Deployment": "deployments", "Job": "jobs",
    "NetworkPolicy": "networkpolicies", "PodDisruptionBudget": "poddisruptionbudgets", "Role": "roles",
    "RoleBinding": "rolebindings", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
    "CustomResourceDefinition": "customresourcedefinitions", "CronJob": "cronjobs", "Secret": "secrets",
    "ConfigMap": "configmaps",
}  # fmt: skip
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
PROMETHEUS = {"ServiceMonitor", "PrometheusRule"}
EVERYTHING = {
    "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True},
                "dashboard": {"enabled": True}},
    "jobs": {"networkPolicy": {"enabled": True, "namespaces": ["shop"]}},
    "networkPolicy": {"apiServerCidrs": ["10.0.0.0/8"], "metricsFrom": [{"podSelector": {}}],
                      "extraEgress": [{"ports": [{"port": 8443}]}]},
    "imagePullSecrets": [{"name": "registry"}], "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}}, "extraArgs": ["--workers=4"], "extraEnv": [{"name": "A", "value": "b"}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                                   "labelSelector": {}}],
    "podLabels": {"team": "data"}, "podAnnotations": {"team": "data"}, "commonLabels": {"cost": "7"},
    "serviceAccount": {"annotations": {"a": "b"}},
    "record": {"enabled": True, "host": "db", "credentialsSecretRef": {"name": "record"}, "keep": "400d",
               "caSecretRef": {"name": "authority"}},
    "redis": {"url": "redis://x:6379", "jobs": {"secretName": "redis"}},
}  # fmt: skip


def find(objects: list[Object], kind: str, name: str = "") -> Object:
    """Return the object of a kind, and of a name if there are several."""
    found = [item for item in objects if item["kind"] == kind and item["metadata"]["name"].endswith(name)]
    assert len(found) == 1, [item["metadata"]["name"] for item in found]
    return found[0]


def collection(item: Object) -> str:
    group = item["apiVersion"] if "/" in item["apiVersion"] else ""
    where = "" if item["kind"] in CLUSTER_WIDE else f"/namespaces/{item['metadata']['namespace']}"
    return f"{f'/apis/{group}' if group else '/api/v1'}{where}/{PLURALS[item['kind']]}"


def pods(objects: list[Object]) -> Iterator[Object]:
    """Yield the pods that objects make, as pods."""
    for item in objects:
        spec = item.get("spec", {})
        if template := spec.get("jobTemplate", {}).get("spec", spec).get("template"):
            metadata = template.get("metadata", {}) | {"name": item["metadata"]["name"], "namespace": "restricted"}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.fixture(scope="module")
def server(api: ApiServer) -> ApiServer:
    """The API server with the namespaces of the rendered objects."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in ("system", "shop", "restricted"):
        metadata = {"name": name, "labels": labels if name == "restricted" else {}}
        api.call("POST", "/api/v1/namespaces", {"metadata": metadata})
    return api


@pytest.mark.parametrize(
    "values",
    [
        {},
        EVERYTHING,
        {"watch": {"namespaces": ["shop", "system"]}},
        {"replicas": 1, "leaderElection": {"enabled": False}},
    ],
    ids=["defaults", "everything", "namespaced", "alone"],
)
def test_the_api_server_takes_every_object(server: ApiServer, render: Render, values: Object) -> None:
    objects = render(**values)
    for item in objects:
        if item["kind"] in PROMETHEUS:
            continue
        path = collection(item)
        if item["kind"] == "CustomResourceDefinition":
            # It is there already; what would be created must be the same.
            there = server.call("GET", f"{path}/{item['metadata']['name']}")
            item["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            path, method = f"{path}/{item['metadata']['name']}", "PUT"
        else:
            method = "POST"
        status, answer = server.request(method, f"{path}?dryRun=All&fieldValidation=Strict", item)
        assert status < 300, f"{item['kind']}: {answer.get('message')}"
    for pod in pods(objects):
        pod["spec"].pop("serviceAccountName", None)
        if pod["spec"].get("priorityClassName"):
            pod["spec"].pop("priorityClassName")
        status, answer = server.request("POST", "/api/v1/namespaces/restricted/pods?dryRun=All", pod)
        assert status < 300, answer.get("message")


def test_helm_lints_it_without_a_warning(helm_alone: Callable[..., str]) -> None:
    assert "0 chart(s) failed" in helm_alone("lint", "--strict", str(CHART))


def test_values_that_contradict_each_other_are_refused(render: Render) -> None:
    for values, problem in (
        ({"leaderElection": {"enabled": False}}, "replicas must be 1"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name is needed"),
        ({"jobs": {"networkPolicy": {"enabled": True}}}, "jobs.networkPolicy.namespaces is needed"),
        ({"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}}, "needs metrics.service"),
        ({"record": {"enabled": True, "credentialsSecretRef": {"name": "x"}}}, "record.host is needed"),
        ({"record": {"enabled": True, "host": "db"}}, "record.credentialsSecretRef.name is needed"),
        ({"no": {"such": "value"}}, "additional properties 'no' not allowed"),
    ):
        with pytest.raises(AssertionError, match=problem):
            render(**values)


def test_definitions_come_and_stay_as_is_asked_for(render: Render) -> None:
    kept = [item for item in render() if item["kind"] == "CustomResourceDefinition"]
    assert len(kept) == 2
    assert all(item["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for item in kept)
    gone = [item for item in render(crds={"keep": False}) if item["kind"] == "CustomResourceDefinition"]
    assert all("annotations" not in item["metadata"] for item in gone)
    assert not [item for item in render(crds={"enabled": False}) if item["kind"] == "CustomResourceDefinition"]


def test_a_watch_of_some_namespaces_needs_no_rights_beyond_them(render: Render) -> None:
    objects = render(watch={"namespaces": ["shop"]}, rbac={"aggregate": False}, crds={"enabled": False})
    assert {item["kind"] for item in objects} & CLUSTER_WIDE == set()
    arguments = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--namespace=shop" in arguments
    hook = find(objects, "Job")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--namespace=shop" in hook


def test_a_digest_wins_over_a_tag_and_the_extractor_follows_the_operator(render: Render) -> None:
    def images(**values: Any) -> tuple[str, str]:
        container = find(render(**values), "Deployment")["spec"]["template"]["spec"]["containers"][0]
        extractor = next(word for word in container["args"] if word.startswith("--image="))
        return container["image"], extractor.removeprefix("--image=")

    repository = {"repository": "example.com/o"}
    assert images(image=repository) == ("example.com/o:0.1.0", "localhost/extraction-operator/extractor:0.1.0")
    assert images(image=repository | {"tag": "2"})[1].endswith("extractor:2")
    digest = f"sha256:{'a' * 64}"
    both = images(image=repository | {"tag": "2", "digest": digest}, extractor={"image": {"tag": "3"}})
    assert both == (f"example.com/o@{digest}", "localhost/extraction-operator/extractor:3")


# What the operator may do ---------------------------------------------------------------------------------------


EVERYWHERE: Object = {}
ONE: Object = {"watch": {"namespaces": ["shop"]}}


@contextlib.contextmanager
def roles(server: ApiServer, objects: list[Object]) -> Iterator[None]:
    """Have the roles among the objects, and their bindings, for a while."""
    with contextlib.ExitStack() as stack:
        for item in objects:
            if item["kind"].startswith(("Role", "ClusterRole")):
                server.call("POST", collection(item), item)
                stack.callback(server.call, "DELETE", f"{collection(item)}/{item['metadata']['name']}")
        yield


def may(server: ApiServer, verb: str, resource: str, namespace: str | None = "shop", name: str = "") -> bool:
    """Ask the API server whether the operator's service account may do something with ``GROUP:PLURAL/SUBRESOURCE``."""
    group, _, rest = resource.rpartition(":")
    plural, _, subresource = rest.partition("/")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "name": name}
    if namespace:
        attributes["namespace"] = namespace
    user = "system:serviceaccount:system:extraction-extraction-operator"
    review = {"spec": {"user": user, "resourceAttributes": attributes}}
    answer = server.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def name_of(kind: kinds.Kind) -> str:
    return f"{kind.group}:{kind.plural}"


OURS = (kinds.EXTRACTION_JOB, kinds.DATA_SOURCE)
NEEDED = [
    *((name_of(kind), verb) for kind in OURS for verb in ("list", "watch", "patch")),
    *((f"{name_of(kind)}/status", "patch") for kind in OURS),
    *((name_of(kinds.JOB), verb) for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *(("pods", verb) for verb in ("list", "watch")),
    ("events", "list"), (name_of(kinds.EVENT), "create"), (name_of(kinds.EVENT), "patch"),
    ("persistentvolumeclaims", "get"),
]  # fmt: skip
"""What the code calls: resource and verb."""


FORBIDDEN = [
    *(("secrets", verb) for verb in ("get", "list", "watch", "create", "update", "patch", "delete")),
    *(("configmaps", verb) for verb in ("get", "list", "create")),
    *(("pods", verb) for verb in ("create", "update", "patch", "delete")),
    *((f"pods/{name}", "create") for name in ("exec", "attach", "portforward", "eviction")),
    ("pods/exec", "get"), ("pods/log", "get"), ("pods/ephemeralcontainers", "update"),
    ("serviceaccounts/token", "create"), ("serviceaccounts", "impersonate"),
    *((name_of(kind), verb) for kind in OURS for verb in ("create", "delete")),
    ("rbac.authorization.k8s.io:roles", "create"), ("rbac.authorization.k8s.io:clusterroles", "bind"),
    ("apps:deployments", "patch"), ("apps:deployments/scale", "patch"),
    ("persistentvolumes", "get"), ("persistentvolumeclaims", "list"), ("namespaces", "list"), ("nodes", "list"),
]  # fmt: skip
"""What an attacker would like."""


@pytest.mark.parametrize("values", [EVERYWHERE, ONE], ids=["everywhere", "one namespace"])
def test_the_operator_may_do_what_it_does_and_nothing_else(server: ApiServer, render: Render, values: Object) -> None:
    # Of the hook, which is there only while the release is uninstalled, nothing.
    objects = [item for item in render(**values) if "annotations" not in item["metadata"]]
    with roles(server, objects):
        assert [(resource, verb) for resource, verb in NEEDED if not may(server, verb, resource)] == []
        assert may(server, "get", "namespaces", name="shop")
        lease = name_of(kinds.LEASE)
        assert may(server, "create", lease, "system")
        for verb in ("get", "update"):
            assert may(server, verb, lease, "system", "extraction-extraction-operator")
            assert not may(server, verb, lease, "system", "of-somebody-else")
        allowed = [
            (resource, verb, namespace)
            for resource, verb in FORBIDDEN
            for namespace in ("shop", "system", None)
            if may(server, verb, resource, namespace)
        ]
        assert allowed == []


def test_a_watch_of_one_namespace_gives_no_right_in_another(server: ApiServer, render: Render) -> None:
    with roles(server, render(**ONE)):
        assert may(server, "list", "pods", "shop")
        assert not may(server, "list", "pods", "restricted")
        assert not may(server, "list", "pods", None)


def test_people_get_rights_by_the_roles_of_the_cluster(render: Render) -> None:
    objects = render()
    viewer, editor = (find(objects, "ClusterRole", name) for name in (":viewer", ":editor"))
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert viewer["metadata"]["labels"][f"{prefix}view"] == "true"
    assert {name for name in ("edit", "admin") if editor["metadata"]["labels"].get(prefix + name) == "true"} == {
        "edit", "admin"
    }  # fmt: skip
    for rule in viewer["rules"]:
        assert set(rule["verbs"]) <= {"get", "list", "watch"}
    for rule in editor["rules"]:
        # What the operator found is not for people to write.
        if any(name.endswith("/status") for name in rule["resources"]):
            assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_the_hook_may_stop_the_operator_and_no_other_deployment(render: Render) -> None:
    objects = render()
    rules = find(objects, "Role", "-release")["rules"]
    assert rules == [
        {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"],
         "resourceNames": [find(objects, "Deployment")["metadata"]["name"]]}
    ]  # fmt: skip
    for kind in ("Role", "RoleBinding", "Job"):
        annotations = find(objects, kind, "-release")["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-delete"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_replicas_outlive_a_drain(render: Render) -> None:
    objects = render()
    budget, deployment = find(objects, "PodDisruptionBudget"), find(objects, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # The pods of the operator must not look like those of jobs, which it watches by this label.
    assert labels["app.kubernetes.io/managed-by"] != "extraction-operator"
    assert "PodDisruptionBudget" not in {item["kind"] for item in render(replicas=1)}


def test_a_job_pod_is_what_the_policy_of_jobs_selects(render: Render) -> None:
    from extraction_operator.plan import names

    policy = find(render(**EVERYTHING), "NetworkPolicy", "-jobs")
    assert policy["metadata"]["namespace"] == "shop"
    selector = policy["spec"]["podSelector"]
    assert selector["matchLabels"] == {names.MANAGED_BY: names.MANAGER}
    assert selector["matchExpressions"] == [{"key": names.ROLE, "operator": "Exists"}]
    assert "ingress" not in policy["spec"]
    assert "Ingress" in policy["spec"]["policyTypes"]


def test_options_of_the_operator_are_options_that_it_has(render: Render) -> None:
    from extraction_operator.cli import main

    objects = render(watch={"namespaces": ["shop"]}, record=RECORD, settings={"requestConnections": True})
    assert "--request-connections" in str(objects)
    assert "--request-connections" not in str(render()), "nodes must advertise them first"
    for kind, name in (("Deployment", "operator"), ("Job", "-release")):
        command, *options = find(objects, kind, name)["spec"]["template"]["spec"]["containers"][0]["args"]
        params = main.commands[command].params
        known = {option for found in params for option in (*found.opts, *found.secondary_opts)}
        assert {option.partition("=")[0] for option in options} <= known


RECORD: Object = {"enabled": True, "host": "db.example.com", "credentialsSecretRef": {"name": "writer"}}


def record_pod(objects: list[Object], kind: str, name: str) -> Object:
    """Return the spec of a pod that keeps the record."""
    spec = find(objects, kind, name)["spec"]
    found: Object = spec.get("jobTemplate", {}).get("spec", spec)["template"]["spec"]
    return found


def test_the_record_is_migrated_first_and_its_password_is_in_no_manifest(render: Render) -> None:
    assert "CronJob" not in {item["kind"] for item in render()}
    objects = render(record=RECORD | {"caSecretRef": {"name": "authority"}})
    hook = find(objects, "Job", "-migrate")
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    url = "postgresql://db.example.com:5432/extraction?sslmode=verify-full&sslrootcert=/etc/extraction/record/ca/ca.crt"
    operator = find(objects, "Deployment")["spec"]["template"]["spec"]
    assert f"--record-url={url}" in operator["containers"][0]["args"]
    for pod in (operator, record_pod(objects, "Job", "-migrate"), record_pod(objects, "CronJob", "-record")):
        secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        assert secrets == {"writer", "authority"}
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"/tmp", "/etc/extraction/record/credentials", "/etc/extraction/record/ca"}
        assert "env" not in pod["containers"][0]
    for pod in (record_pod(objects, "Job", "-migrate"), record_pod(objects, "CronJob", "-record")):
        assert f"--url={url}" in pod["containers"][0]["args"]
        assert pod["automountServiceAccountToken"] is False
    # The policy of the release before doesn't know the record's port.
    labels = hook["spec"]["template"]["metadata"]["labels"]
    policy = find(objects, "NetworkPolicy")["spec"]
    assert not policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert {"protocol": "TCP", "port": 5432} in [port for rule in policy["egress"] for port in rule["ports"]]


def test_commands_of_the_record_are_commands_that_there_are(render: Render) -> None:
    from extraction_operator.cli import main

    for values in (RECORD, RECORD | {"keep": "400d"}):
        objects = render(record=values)
        for kind, name in (("Job", "-migrate"), ("CronJob", "-record")):
            group, command, *options = record_pod(objects, kind, name)["containers"][0]["args"]
            params = main.commands[group].commands[command].params  # type: ignore[attr-defined]
            assert {option.partition("=")[0] for option in options} <= {name for found in params for name in found.opts}
