{{/* Takes (dict "root" . "name" "emoji-turbo" "model" {...}) throughout. */}}

{{- define "darkroom.workerName" -}}
{{ include "darkroom.fullname" .root }}-worker-{{ include "darkroom.modelId" .name }}
{{- end -}}

{{- define "darkroom.workerSelector" -}}
{{- include "darkroom.selector" (dict "root" .root "component" "worker" "model" (include "darkroom.modelId" .name)) -}}
{{- end -}}

{{- define "darkroom.workerLabels" -}}
{{- include "darkroom.labels" (dict "root" .root "component" "worker" "model" (include "darkroom.modelId" .name)) -}}
{{- end -}}

{{/* One name for one content: a Job cannot be changed, so another revision is another Job. */}}
{{- define "darkroom.downloadName" -}}
{{ include "darkroom.fullname" .root }}-model-{{ include "darkroom.modelId" .name }}-{{ list .model.model .model.revision .model.download (include "darkroom.image" (dict "root" .root "flavor" (printf "worker-%s" .model.flavor))) | toJson | sha256sum | trunc 8 }}
{{- end -}}

{{/* The container that puts a model in its place, or waits until another has. Takes `wait` as well. */}}
{{- define "darkroom.fetchContainer" -}}
name: model
image: {{ include "darkroom.image" (dict "root" .root "flavor" (printf "worker-%s" .model.flavor)) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [python, -m, worker.download, {{ .model.model | quote }}]
args:
  - --into={{ include "darkroom.modelPath" . }}
  {{- with .model.revision }}
  - --revision={{ . }}
  {{- end }}
  {{- with .model.download.sha256 }}
  - --sha256={{ . }}
  {{- end }}
  {{- if .wait }}
  - --wait={{ .model.download.timeoutSeconds }}
  {{- end }}
env:
  - { name: HF_HOME, value: /tmp/hub }
  {{- with .model.download.tokenSecret }}
  - name: HF_TOKEN
    valueFrom:
      secretKeyRef: { name: {{ . }}, key: token }
  {{- end }}
resources:
  requests: { cpu: 100m, memory: 256Mi }
  limits: { memory: 1Gi }
securityContext: {{- include "darkroom.containerSecurity" .root | nindent 2 }}
volumeMounts:
  - { name: tmp, mountPath: /tmp }
  - { name: models, mountPath: /models{{ if .wait }}, readOnly: true{{ end }} }
{{- end -}}

{{/* Models whose workers fetch from a hub themselves, as a JSON list of names of objects. Takes the root. */}}
{{- define "darkroom.fetchers" -}}
{{- $fetchers := list -}}
{{- range $name := fromJsonArray (include "darkroom.models" .) -}}
{{- $model := fromJson (include "darkroom.model" (dict "root" $ "name" $name)) -}}
{{- $settings := deepCopy $.Values.settings -}}
{{- if $.Values.search.enabled -}}{{- $_ := set $settings "clip" $.Values.search.clip -}}{{- end -}}
{{- $settings = mergeOverwrite $settings $model.settings -}}
{{- if not (and $.Values.modelCache.enabled $model.download.enabled (not $settings.loras) (not $settings.vae) (not $settings.quality_clip) (or (not $settings.clip) (hasPrefix "models/" $settings.clip))) -}}
{{- $fetchers = append $fetchers (include "darkroom.modelId" $name) -}}
{{- end -}}
{{- end -}}
{{- toJson $fetchers -}}
{{- end -}}

{{/* Not empty where KEDA scales any model. Takes the root. */}}
{{- define "darkroom.scaled" -}}
{{- range $name := fromJsonArray (include "darkroom.models" .) -}}
{{- $model := fromJson (include "darkroom.model" (dict "root" $ "name" $name)) -}}
{{- if $model.autoscaling.enabled }}yes{{ end -}}
{{- end -}}
{{- end -}}

{{- define "darkroom.modelVolume" -}}
- name: models
{{- if .root.Values.modelCache.enabled }}
  persistentVolumeClaim:
    claimName: {{ .root.Values.modelCache.existingClaim | default (printf "%s-models" (include "darkroom.fullname" .root)) }}
{{- else }}
  emptyDir: {}
{{- end }}
{{- end -}}

{{/* PromQL: workers that arriving and waiting work keep wholly busy. A job in hand is no longer waiting, and asks for nobody. */}}
{{- define "darkroom.workersWanted" -}}
max(darkroom_live_workers{{ .of }}) * (
{{- "" }}(sum(rate(darkroom_steps_submitted_total{{ .of }}[1m])) or vector(0)) / (max(darkroom_model_steps_per_second{{ .of }}) > 0)
{{- "" }} + max(darkroom_predicted_wait_seconds{{ .of }}) * (max(darkroom_jobs_waiting{{ .of }}) > bool 0) / {{ .within }})
{{- end -}}
