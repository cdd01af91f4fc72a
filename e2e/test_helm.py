"""Charts come and go by helm as they do on any cluster."""

import json
from pathlib import Path

import pytest

from e2e.support.charts import Helm, HelmFailed
from e2e.support.cluster import Cluster
from e2e.support.pods import BUSYBOX

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {name: main, image: {{ .Values.image }}, imagePullPolicy: Never, command: [sleep, "3600"]}
"""
FAREWELL = """
apiVersion: batch/v1
kind: Job
metadata:
  name: farewell
  annotations: {"helm.sh/hook": pre-delete, "helm.sh/hook-delete-policy": before-hook-creation}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - {name: main, image: {{ .Values.image }}, imagePullPolicy: Never, command: ["{{ .Values.farewell }}"]}
"""


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text('{"apiVersion": "v2", "name": "tiny", "version": "1.0.0"}')
    (folder / "values.yaml").write_text(json.dumps({"replicas": 1, "image": BUSYBOX, "farewell": "true"}))
    (folder / "templates" / "deployment.yaml").write_text(DEPLOYMENT)
    (folder / "templates" / "farewell.yaml").write_text(FAREWELL)
    return folder


def test_a_chart_is_installed_upgraded_and_uninstalled_with_its_hooks(
    namespace: Cluster, helm: Helm, chart: Path
) -> None:
    helm.install("app", chart)
    # helm returns when all is ready, not before.
    assert namespace.get("deployment", "app")["status"]["readyReplicas"] == 1
    assert helm.releases() == {"app": "deployed"}
    helm.upgrade("app", chart, {"replicas": 2})
    assert namespace.get("deployment", "app")["status"]["readyReplicas"] == 2
    helm.uninstall("app")
    assert helm.releases() == {}
    assert namespace.get_all("deployments") == []
    assert namespace.get("job", "farewell")["status"]["succeeded"] == 1


def test_a_hook_that_fails_keeps_the_release(namespace: Cluster, helm: Helm, chart: Path) -> None:
    helm.install("app", chart, {"farewell": "false"})
    with pytest.raises(HelmFailed, match="farewell"):
        helm.uninstall("app")
    assert helm.releases() == {"app": "uninstalling"}
    assert namespace.get("deployment", "app")["status"]["readyReplicas"] == 1


def test_a_chart_of_which_nothing_gets_ready_is_no_success(namespace: Cluster, helm: Helm, chart: Path) -> None:
    with pytest.raises(HelmFailed):
        helm.install("app", chart, {"image": "localhost/none:1"}, "--timeout=5s")
    assert helm.releases() == {"app": "failed"}
    helm.uninstall("app", "--no-hooks")
    assert namespace.get_all("deployments") == []
