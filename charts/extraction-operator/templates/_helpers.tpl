{{- define "extraction-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Names of pods are made from it, so it is short. */ -}}
{{- define "extraction-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Objects without a namespace: two releases of one name in two namespaces must not share them. */ -}}
{{- define "extraction-operator.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "extraction-operator.fullname" .) }}
{{- end }}

{{- define "extraction-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "extraction-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "extraction-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "extraction-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: extraction-operator
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "extraction-operator.crdMetadata" -}}
labels:
  {{- include "extraction-operator.labels" . | nindent 2 }}
{{- if .Values.crds.keep }}
annotations:
  helm.sh/resource-policy: keep
{{- end }}
{{- end }}

{{- define "extraction-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "extraction-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* A reference of (dict "image" IMAGE "tag" TAG): TAG is the one to take where the image names none. */ -}}
{{- define "extraction-operator.reference" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) }}
{{- end }}
{{- end }}

{{- define "extraction-operator.tag" -}}
{{- default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{- define "extraction-operator.image" -}}
{{- include "extraction-operator.reference" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
{{- end }}

{{- define "extraction-operator.extractorImage" -}}
{{- include "extraction-operator.reference" (dict "image" .Values.extractor.image "tag" (include "extraction-operator.tag" .)) }}
{{- end }}

{{- /* What the operator may do in the namespaces that it watches. No Secret, no pods/exec, no pod of its own making. */ -}}
{{- define "extraction-operator.rules" -}}
- apiGroups: [extraction-operator.io]
  resources: [datasources, extractionjobs]
  verbs: [get, list, watch, patch]
- apiGroups: [extraction-operator.io]
  resources: [datasources/status, extractionjobs/status]
  verbs: [patch]
# Only where the admission plugin OwnerReferencesPermissionEnforcement asks for it.
- apiGroups: [extraction-operator.io]
  resources: [datasources/finalizers, extractionjobs/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Why a pod doesn't start: a missing Secret or a quota shows nowhere else.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# The access modes of the volume that files go to.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
# Whether the namespace is being deleted.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end }}

{{- define "extraction-operator.recordUrl" -}}
{{- with .Values.record -}}
postgresql://{{ required "record.host is needed where record.enabled is true" .host }}:{{ .port }}/{{ .database }}?sslmode={{ .sslMode }}
{{- if .caSecretRef.name }}&sslrootcert=/etc/extraction/record/ca/{{ .caSecretRef.key }}{{ end }}
{{- end }}
{{- end }}

{{- define "extraction-operator.recordMounts" -}}
- name: record-credentials
  mountPath: /etc/extraction/record/credentials
  readOnly: true
{{- if .Values.record.caSecretRef.name }}
- name: record-ca
  mountPath: /etc/extraction/record/ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "extraction-operator.recordVolumes" -}}
- name: record-credentials
  secret:
    secretName: {{ required "record.credentialsSecretRef.name is needed where record.enabled is true" .Values.record.credentialsSecretRef.name }}
{{- with .Values.record.caSecretRef.name }}
- name: record-ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}

{{- /*
The template of a pod that keeps the record, of (list ROOT ARGS). It has no right in the cluster, and not the labels of the
operator: the NetworkPolicy of the release before may not know the record's port yet.
*/ -}}
{{- define "extraction-operator.recordPod" -}}
{{- $root := index . 0 }}{{ $args := index . 1 -}}
metadata:
  labels:
    app.kubernetes.io/part-of: extraction-operator
    app.kubernetes.io/component: record
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  containers:
    - name: record
      image: {{ include "extraction-operator.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        {{- toYaml $args | nindent 8 }}
        - --url={{ include "extraction-operator.recordUrl" $root }}
        - --credentials=/etc/extraction/record/credentials
      resources:
        {{- toYaml $root.Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- include "extraction-operator.recordMounts" $root | nindent 8 }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
    {{- include "extraction-operator.recordVolumes" $root | nindent 4 }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* The Secret with the URL of Redis; empty without one. */ -}}
{{- define "extraction-operator.redisSecret" -}}
{{- if .Values.redis.existingSecret }}
{{- .Values.redis.existingSecret }}
{{- else if .Values.redis.url }}
{{- printf "%s-redis" (include "extraction-operator.fullname" .) }}
{{- end }}
{{- end }}

{{- define "extraction-operator.leaseName" -}}
{{- include "extraction-operator.fullname" . }}
{{- end }}

{{- /*
PromQL of (list BY COUNTER): by how much a counter grew within 15 minutes. One that began within them counts in full:
increase() would not see its first step.
*/ -}}
{{- define "extraction-operator.grew" -}}
{{- $by := index . 0 }}{{ $counter := index . 1 -}}
sum {{ $by }} (({{ $counter }} unless {{ $counter }} offset 15m) or increase({{ $counter }}[15m])) > 0
{{- end }}
