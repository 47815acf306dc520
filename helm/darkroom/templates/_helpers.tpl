{{/* Names, labels and what all pods share. */}}

{{- define "darkroom.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "darkroom.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "darkroom.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: selectors. Takes (dict "root" . "component" "api"). */}}
{{- define "darkroom.selector" -}}
app.kubernetes.io/name: {{ include "darkroom.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .model }}
darkroom.dev/model: {{ . }}
{{- end }}
{{- end -}}

{{- define "darkroom.labels" -}}
{{ include "darkroom.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: darkroom
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* A model's name in names of objects. */}}
{{- define "darkroom.modelId" -}}
{{- regexReplaceAll "[^a-z0-9]+" (lower .) "-" | trunc 30 | trimAll "-" -}}
{{- end -}}

{{/* Names of the models to serve, sorted, as a JSON list: `enabled: false` and null take a model out. */}}
{{- define "darkroom.models" -}}
{{- $names := list -}}
{{- range $name := keys .Values.models | sortAlpha -}}
{{- $model := get $.Values.models $name -}}
{{- if and (kindIs "map" $model) (ne (toString (dig "enabled" $.Values.workerDefaults.enabled $model)) "false") -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* One model's values over the defaults, as JSON, checked. Takes (dict "root" . "name" "emoji-turbo"). */}}
{{- define "darkroom.model" -}}
{{- $model := mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (get .root.Values.models .name)) -}}
{{- if not $model.model -}}
{{- fail (printf "models.%s.model is empty: name a folder or a hub id." .name) -}}
{{- end -}}
{{- if lt (int $model.drainTimeoutSeconds) (int $model.batchTimeoutSeconds) -}}
{{- fail (printf "models.%s: drainTimeoutSeconds (%v) is below batchTimeoutSeconds (%v): a scale-down would end running batches." .name $model.drainTimeoutSeconds $model.batchTimeoutSeconds) -}}
{{- end -}}
{{- if and $model.gpu.mig (not $model.gpu.count) -}}
{{- fail (printf "models.%s.gpu.mig is set, but gpu.count is 0." .name) -}}
{{- end -}}
{{- if and $model.gpu.count (ne $model.flavor "cuda") -}}
{{- fail (printf "models.%s asks for a GPU: set flavor to cuda." .name) -}}
{{- end -}}
{{- if and (eq $model.flavor "cuda") (not $model.gpu.count) -}}
{{- fail (printf "models.%s: flavor is cuda, but gpu.count is 0: its workers would find no GPU." .name) -}}
{{- end -}}
{{- if and $model.autoscaling.enabled (gt (int $model.autoscaling.minReplicas) (int $model.autoscaling.maxReplicas)) -}}
{{- fail (printf "models.%s.autoscaling: minReplicas is above maxReplicas." .name) -}}
{{- end -}}
{{- toJson $model -}}
{{- end -}}

{{/* Where a downloaded model lies; a new revision is a new folder, so that old workers keep theirs. */}}
{{- define "darkroom.modelPath" -}}
{{- if .model.download.enabled -}}
/models/{{ include "darkroom.modelId" .name }}/{{ .model.revision | default "latest" }}
{{- else -}}
{{ .model.model }}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" . "flavor" "api"). */}}
{{- define "darkroom.image" -}}
{{- $image := .root.Values.image -}}
{{- $repository := printf "%s-%s" $image.repository .flavor -}}
{{- if $image.registry -}}{{- $repository = printf "%s/%s" $image.registry $repository -}}{{- end -}}
{{- $digest := get $image.digests .flavor -}}
{{- if $digest -}}
{{- printf "%s@%s" $repository $digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "darkroom.serviceAccount" -}}
{{- ternary (printf "%s-%s" (include "darkroom.fullname" .root) .component) "default" .root.Values.serviceAccounts.create -}}
{{- end -}}

{{/* Pod Security "restricted", for pods and for containers. */}}
{{- define "darkroom.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "darkroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Spread over zones and nodes. Takes what darkroom.selector takes. */}}
{{- define "darkroom.spread" -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "darkroom.selector" $ | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Where pods may go. Takes (dict "values" .Values.api "selector" (dict ...)). */}}
{{- define "darkroom.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.topologySpread }}
topologySpreadConstraints:
  {{- include "darkroom.spread" .selector | trim | nindent 2 }}
{{- end }}
{{- $root := .selector.root }}
{{- if .values.priorityClassName }}
priorityClassName: {{ .values.priorityClassName }}
{{- else if $root.Values.priorityClasses.create }}
priorityClassName: {{ include "darkroom.fullname" $root }}-{{ .selector.component }}
{{- end }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
