{{/* From values to the environment: every setting is `DARKROOM_` and its name in capitals. */}}

{{- define "darkroom.configName" -}}{{ include "darkroom.fullname" . }}-settings{{- end -}}

{{/* The chart's own Secret, or the one that stands in its place. */}}
{{- define "darkroom.secretName" -}}
{{- if .Values.existingSecret -}}
{{- if .Values.externalSecrets.enabled -}}
{{- fail "existingSecret: externalSecrets writes a Secret itself; either of them." -}}
{{- end -}}
{{- range $path, $value := dict "auth.adminKey" .Values.auth.adminKey "rabbitmq.url" .Values.rabbitmq.url "rabbitmq.bundled.password" .Values.rabbitmq.bundled.password "redis.url" .Values.redis.url "redis.cacheUrl" .Values.redis.cacheUrl "redis.bundled.password" .Values.redis.bundled.password "search.token" .Values.search.token "search.index.url" .Values.search.index.url -}}
{{- if $value -}}
{{- fail (printf "existingSecret: %s would not be used; it belongs in that Secret." $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- .Values.existingSecret | default (printf "%s-services" (include "darkroom.fullname" .)) -}}
{{- end -}}

{{/* Settings as a map of variables. Takes a map of settings. */}}
{{- define "darkroom.variables" -}}
{{- range $name, $value := . }}
{{- /* Numbers of YAML are floats here: a million must not become 1e+06. */}}
{{- if and (kindIs "float64" $value) (eq (toString $value) (toString (floor $value))) }}
{{- $value = int64 $value }}
{{- end }}
DARKROOM_{{ upper $name }}: {{ toString $value | quote }}
{{- end }}
{{- end -}}

{{/* What all processes share, as data of the ConfigMap. */}}
{{- define "darkroom.config" -}}
{{- $shared := dict "log_format" "json" -}}
{{- if .Values.blobs.enabled -}}{{- $_ := set $shared "blob_dir" "/blobs" -}}{{- end -}}
{{- if include "darkroom.policySource" . -}}
{{- $_ := set $shared "moderation" (printf "/etc/darkroom/moderation/%s" .Values.moderation.policy) -}}
{{- end -}}
{{- with .Values.tracing.endpoint -}}
{{- $_ := set $shared "otlp_endpoint" . -}}
{{- $_ := set $shared "trace_sample_ratio" $.Values.tracing.sampleRatio -}}
{{- end -}}
{{- include "darkroom.variables" (mergeOverwrite $shared (deepCopy .Values.settings)) | trim -}}
{{- end -}}

{{/* How the URL of a service is come by: one of url, existingSecret, cluster, externalSecret, bundled; JSON {name, key}.
Takes (dict "root" . "service" "rabbitmq"). */}}
{{- define "darkroom.source" -}}
{{- $root := .root -}}
{{- $values := get $root.Values .service -}}
{{- $ways := list -}}
{{- if $values.url -}}{{- $ways = append $ways "url" -}}{{- end -}}
{{- if $values.existingSecret.name -}}{{- $ways = append $ways "existingSecret" -}}{{- end -}}
{{- if get $values "cluster" -}}{{- $ways = append $ways "cluster" -}}{{- end -}}
{{- $remote := get $root.Values.externalSecrets.remoteRefs .service -}}
{{- if and $root.Values.externalSecrets.enabled $remote.key -}}{{- $ways = append $ways "externalSecrets" -}}{{- end -}}
{{- if $values.bundled.enabled -}}{{- $ways = append $ways "bundled" -}}{{- end -}}
{{- if ne (len $ways) 1 -}}
{{- $all := "url, existingSecret, externalSecrets, bundled.enabled" -}}
{{- if eq .service "rabbitmq" -}}{{- $all = "url, existingSecret, cluster, externalSecrets, bundled.enabled" -}}{{- end -}}
{{- fail (printf "%s: exactly one of %s must say where it is; now: %s." .service $all (join ", " $ways | default "none")) -}}
{{- end -}}
{{- first $ways -}}
{{- end -}}

{{- define "darkroom.urlRef" -}}
{{- $values := get .root.Values .service -}}
{{- $source := include "darkroom.source" . -}}
{{- if eq $source "existingSecret" -}}
{name: {{ $values.existingSecret.name }}, key: {{ $values.existingSecret.key }}}
{{- else if eq $source "cluster" -}}
{name: {{ $values.cluster }}-default-user, key: connection_string}
{{- else -}}
{name: {{ include "darkroom.secretName" .root }}, key: {{ .service }}-url}
{{- end -}}
{{- end -}}

{{- define "darkroom.cacheUrlRef" -}}
{{- if .Values.redis.cacheExistingSecret.name -}}
{name: {{ .Values.redis.cacheExistingSecret.name }}, key: {{ .Values.redis.cacheExistingSecret.key }}}
{{- else if or .Values.redis.cacheUrl (and .Values.externalSecrets.enabled .Values.externalSecrets.remoteRefs.redisCache.key) -}}
{name: {{ include "darkroom.secretName" . }}, key: redis-cache-url}
{{- end -}}
{{- end -}}

{{/* Where the first API key is. */}}
{{- define "darkroom.adminKeyRef" -}}
{{- $auth := .Values.auth -}}
{{- if and $auth.existingSecret.name $auth.adminKey -}}
{{- fail "auth: either adminKey or existingSecret, not both." -}}
{{- end -}}
{name: {{ $auth.existingSecret.name | default (include "darkroom.secretName" .) }}, key: {{ if $auth.existingSecret.name }}{{ $auth.existingSecret.key }}{{ else }}admin-key{{ end }}}
{{- end -}}

{{/* Where the URL of the index of images is; nothing where it is on a volume. */}}
{{- define "darkroom.indexRef" -}}
{{- $index := .Values.search.index -}}
{{- if and $index.url $index.existingSecret.name -}}
{{- fail "search.index: either url or existingSecret, not both." -}}
{{- end -}}
{{- if $index.existingSecret.name -}}
{name: {{ $index.existingSecret.name }}, key: {{ $index.existingSecret.key }}}
{{- else if $index.url -}}
{name: {{ include "darkroom.secretName" . }}, key: search-index-url}
{{- end -}}
{{- end -}}

{{/* The volume with the policy of moderation and its files; nothing where there is none. */}}
{{- define "darkroom.policySource" -}}
{{- $moderation := .Values.moderation -}}
{{- $ways := list -}}
{{- if $moderation.files -}}{{- $ways = append $ways "files" -}}{{- end -}}
{{- if $moderation.existingConfigMap -}}{{- $ways = append $ways "existingConfigMap" -}}{{- end -}}
{{- if $moderation.existingSecret -}}{{- $ways = append $ways "existingSecret" -}}{{- end -}}
{{- if gt (len $ways) 1 -}}
{{- fail (printf "moderation: one of files, existingConfigMap and existingSecret; now: %s." (join ", " $ways)) -}}
{{- end -}}
{{- if and $moderation.files (not (hasKey $moderation.files $moderation.policy)) -}}
{{- fail (printf "moderation.files has no %s, which moderation.policy names." $moderation.policy) -}}
{{- end -}}
{{- if and $moderation.meaning.enabled (not $ways) -}}
{{- fail "moderation.meaning.enabled is true, but there is no policy: name its files, moderation.files." -}}
{{- end -}}
{{- if and $moderation.secondLook.enabled (not $ways) -}}
{{- fail "moderation.secondLook.enabled is true, but there is no policy: name its files, moderation.files." -}}
{{- end -}}
{{- if $moderation.files -}}
configMap: { name: {{ include "darkroom.fullname" . }}-moderation }
{{- else if $moderation.existingConfigMap -}}
configMap: { name: {{ $moderation.existingConfigMap }} }
{{- else if $moderation.existingSecret -}}
secret: { secretName: {{ $moderation.existingSecret }} }
{{- end -}}
{{- end -}}

{{/* What the API shows to the search, as a variable. */}}
{{- define "darkroom.searchToken" -}}
name: DARKROOM_SEARCH_TOKEN
valueFrom:
  secretKeyRef: {name: {{ include "darkroom.secretName" . }}, key: search-token}
{{- end -}}

{{/* Environment of a process. Takes (dict "root" . "settings" {...} "extra" [...]). */}}
{{- define "darkroom.env" -}}
{{- $root := .root -}}
envFrom:
  - configMapRef:
      name: {{ include "darkroom.configName" $root }}
env:
  - name: DARKROOM_BROKER_URL
    valueFrom:
      secretKeyRef: {{ include "darkroom.urlRef" (dict "root" $root "service" "rabbitmq") }}
  - name: DARKROOM_REDIS_URL
    valueFrom:
      secretKeyRef: {{ include "darkroom.urlRef" (dict "root" $root "service" "redis") }}
  {{- with include "darkroom.cacheUrlRef" $root }}
  - name: DARKROOM_CACHE_REDIS_URL
    valueFrom:
      secretKeyRef: {{ . }}
  {{- end }}
  {{- range $name, $value := fromYaml (include "darkroom.variables" .settings) }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  {{- range concat $root.Values.extraEnv .extra }}
  - {{ toYaml . | nindent 4 | trim }}
  {{- end }}
{{- end -}}

{{/* Pods restart when what they read at their start has changed. */}}
{{- define "darkroom.checksums" -}}
checksum/settings: {{ include "darkroom.config" . | sha256sum }}
checksum/services: {{ list .Values.auth.adminKey .Values.rabbitmq.url .Values.redis.url .Values.redis.cacheUrl .Values.rabbitmq.bundled.password .Values.redis.bundled.password .Values.search.token .Values.search.index.url | toJson | sha256sum }}
{{- end -}}

{{/* Volumes of all pods of ours, and where they are mounted. Takes (dict "root" . "blobs" true). */}}
{{- define "darkroom.volumes" -}}
- name: tmp
  emptyDir: { sizeLimit: 1Gi }
{{- with .root.Values.tls.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- with include "darkroom.policySource" .root }}
- name: moderation
  {{ . }}
{{- end }}
{{- if .root.Values.blobs.enabled }}
- name: blobs
  persistentVolumeClaim:
    claimName: {{ .root.Values.blobs.existingClaim | default (printf "%s-blobs" (include "darkroom.fullname" .root)) }}
{{- end }}
{{- end -}}

{{- define "darkroom.mounts" -}}
- { name: tmp, mountPath: /tmp }
{{- if .root.Values.tls.existingSecret }}
- { name: tls, mountPath: /etc/darkroom/tls, readOnly: true }
{{- end }}
{{- if include "darkroom.policySource" .root }}
- { name: moderation, mountPath: /etc/darkroom/moderation, readOnly: true }
{{- end }}
{{- if .root.Values.blobs.enabled }}
- { name: blobs, mountPath: /blobs }
{{- end }}
{{- end -}}
