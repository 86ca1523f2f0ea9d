{{- define "parallax.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: what follows it, and a pod's own ending, must fit into 63. */}}
{{- define "parallax.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "parallax.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "parallax.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels of everything in this release; they never change. */}}
{{- define "parallax.release" -}}
app.kubernetes.io/name: {{ include "parallax.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* (list $ "node"): the labels that select a component's pods; they never change. */}}
{{- define "parallax.selector" -}}
{{ include "parallax.release" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* (list $ "node"): all labels of an object. */}}
{{- define "parallax.labels" -}}
{{- $root := index . 0 -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
  "app.kubernetes.io/version" ($root.Values.image.tag | default $root.Chart.AppVersion | trunc 63 | trimSuffix "-" | trimSuffix "." | trimSuffix "_")
  "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/part-of" "parallax" -}}
{{- merge (include "parallax.selector" . | fromYaml) $own $root.Values.commonLabels | toYaml }}
{{- end }}

{{/* (list $ "node" [annotations]): the metadata of an object, but its name. */}}
{{- define "parallax.metadata" -}}
{{- $root := index . 0 -}}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "parallax.labels" . | nindent 2 }}
{{- $annotations := merge (dict) (dict) $root.Values.commonAnnotations }}
{{- if gt (len .) 2 }}{{ $annotations = merge (dict) (index . 2) $root.Values.commonAnnotations }}{{ end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* (list $ image): registry/repository:tag@digest. */}}
{{- define "parallax.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- with $image.tag | default (ternary $root.Chart.AppVersion "" (not $image.digest)) }}:{{ . }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "parallax.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "parallax.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{/* A setting's value as text: whole numbers without an exponent, which a program may not read. */}}
{{- define "parallax.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* A map of settings as environment variables. */}}
{{- define "parallax.settings" -}}
{{- range $name, $value := . }}
- name: PARALLAX_{{ upper $name }}
  value: {{ include "parallax.text" $value | quote }}
{{- end }}
{{- end }}

{{/* The Secret with what is secret, and the keys in it. */}}
{{- define "parallax.valkeySecret" -}}
{{- .Values.valkey.auth.existingSecret | default (printf "%s-valkey" (include "parallax.fullname" .)) }}
{{- end }}

{{/* Where Redis is, and who we are there: environment variables of everything that talks to it. */}}
{{- define "parallax.redisEnv" -}}
{{- $redis := .Values.externalRedis -}}
{{- if .Values.valkey.enabled }}
- name: PARALLAX_REDIS_URL
  value: redis://{{ include "parallax.fullname" . }}-valkey:6379/0
- name: PARALLAX_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "parallax.valkeySecret" . | quote }}, key: {{ .Values.valkey.auth.passwordKey | quote }}}
{{- else }}
{{- $own := printf "%s-redis" (include "parallax.fullname" .) }}
{{- $existing := $redis.existingSecret }}
{{- range list
  (list "PARALLAX_REDIS_URL" "url" $existing.urlKey)
  (list "PARALLAX_REDIS_USERNAME" "username" $existing.usernameKey)
  (list "PARALLAX_REDIS_PASSWORD" "password" $existing.passwordKey)
  (list "PARALLAX_REDIS_SENTINEL_USERNAME" "sentinelUsername" $existing.sentinelUsernameKey)
  (list "PARALLAX_REDIS_SENTINEL_PASSWORD" "sentinelPassword" $existing.sentinelPasswordKey) }}
{{- if and $existing.name (index . 2) }}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef: {name: {{ $existing.name | quote }}, key: {{ index . 2 | quote }}}
{{- else if get $redis (index . 1) }}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef: {name: {{ $own }}, key: {{ index . 1 }}}
{{- end }}
{{- end }}
{{- if $redis.tls.existingSecret }}
{{- range $variable, $key := dict "CA_FILE" $redis.tls.caKey "CERT_FILE" $redis.tls.certKey "KEY_FILE" $redis.tls.keyKey }}
{{- if $key }}
- name: PARALLAX_REDIS_{{ $variable }}
  value: {{ printf "/etc/parallax/redis-tls/%s" $key | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
- name: PARALLAX_PREFIX
  value: {{ .Values.prefix | quote }}
{{- end }}

{{- define "parallax.redisMounts" -}}
{{- if and (not .Values.valkey.enabled) .Values.externalRedis.tls.existingSecret }}
- {name: redis-tls, mountPath: /etc/parallax/redis-tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "parallax.redisVolumes" -}}
{{- if and (not .Values.valkey.enabled) .Values.externalRedis.tls.existingSecret }}
- name: redis-tls
  secret: {secretName: {{ .Values.externalRedis.tls.existingSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* (list $ values component): what all our pods have in common, besides their containers and volumes. */}}
{{- define "parallax.pod" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}
serviceAccountName: {{ include "parallax.serviceAccountName" $root | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $values $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "parallax.spread" -}}
{{- $root := index . 0 -}}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "parallax.selector" (list $root (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end }}

{{/* The three probes of a service, on its internal port. A start may wait for Redis: only a dead process fails /healthz. */}}
{{- define "parallax.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: internal}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: internal}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: internal}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* What does not fit together, said in a sentence. */}}
{{- define "parallax.validate" -}}
{{- $v := .Values -}}
{{- $external := or $v.externalRedis.url (and $v.externalRedis.existingSecret.name $v.externalRedis.existingSecret.urlKey) -}}
{{- if and $v.valkey.enabled $external }}{{ fail "valkey.enabled and externalRedis are both set: set valkey.enabled=false to use your own Redis" }}{{ end -}}
{{- if not (or $v.valkey.enabled $external) }}{{ fail "there is no Redis: set valkey.enabled=true, or externalRedis.url, or externalRedis.existingSecret.name and .urlKey" }}{{ end -}}
{{- if and $v.autoscaling.hpa.enabled $v.autoscaling.keda.enabled }}{{ fail "autoscaling.hpa and autoscaling.keda are both enabled: one of them must own the replicas" }}{{ end -}}
{{- if and $v.autoscaling.hpa.enabled (not (or $v.autoscaling.hpa.targetCPUPercent $v.autoscaling.hpa.sessionsPerPod)) }}{{ fail "autoscaling.hpa.enabled needs targetCPUPercent or sessionsPerPod above 0" }}{{ end -}}
{{- range $name := list "hpa" "keda" }}{{- with get $v.autoscaling $name }}{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}{{ fail (printf "autoscaling.%s: minReplicas is above maxReplicas" $name) }}{{ end }}{{ end }}{{ end -}}
{{- if and $v.autoscaling.keda.enabled (not $v.autoscaling.keda.prometheusAddress) }}{{ fail "autoscaling.keda.enabled needs autoscaling.keda.prometheusAddress, from which the viewers are counted" }}{{ end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled }}{{ fail "metrics.serviceMonitor and metrics.podMonitor are both enabled: every node would be counted twice" }}{{ end -}}
{{- if and $v.demo.enabled (not $v.valkey.enabled) }}{{ fail "demo.enabled needs valkey.enabled: the demo fills a Redis of its own" }}{{ end -}}
{{- if $v.demo.enabled }}{{- range $name := list "flights" "events" }}{{- if hasKey $v.tables $name }}{{ fail (printf "demo.enabled brings a table %s of its own: rename tables.%s" $name $name) }}{{ end }}{{ end }}{{ end -}}
{{- if $v.loadTest.enabled }}{{- range $name := list "load" "notes" }}{{- if hasKey $v.tables $name }}{{ fail (printf "loadTest.enabled brings a table %s of its own: rename tables.%s" $name $name) }}{{ end }}{{ end }}{{ end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}{{ fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway to attach to" }}{{ end -}}
{{- range $service := list "node" "coordinator" }}{{- $names := list }}{{- range (get $v $service).extraEnv }}
{{- if has .name $names }}{{ fail (printf "%s.extraEnv has %s twice: Kubernetes would refuse it" $service .name) }}{{ end -}}
{{- if hasPrefix "PARALLAX_" .name }}{{ fail (printf "%s.extraEnv has %s: that is a setting, write it below %s.settings" $service .name $service) }}{{ end -}}
{{- $names = append $names .name }}{{- end }}{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}{{ fail "ingress.enabled needs ingress.hosts" }}{{ end -}}
{{- $algorithms := $v.auth.algorithms -}}
{{- if not $algorithms }}
{{- if or $v.auth.secret $v.auth.existingSecret.name $v.auth.jwks $v.auth.audience $v.auth.issuer $v.auth.cookie $v.auth.defaultRead $v.auth.defaultWrite }}{{ fail "auth is set, but auth.algorithms is empty: nobody would need a token" }}{{ end -}}
{{- else }}
{{- if and (has "HS256" $algorithms) (not (or $v.auth.secret $v.auth.existingSecret.name)) }}{{ fail "auth.algorithms has HS256: set auth.existingSecret.name or auth.secret" }}{{ end -}}
{{- if and (or $v.auth.secret $v.auth.existingSecret.name) (not (has "HS256" $algorithms)) }}{{ fail "auth.secret is of use with HS256 only, which auth.algorithms lacks" }}{{ end -}}
{{- $public := or (has "RS256" $algorithms) (has "ES256" $algorithms) -}}
{{- if and $public (not $v.auth.jwks) }}{{ fail "auth.algorithms has RS256 or ES256: set auth.jwks" }}{{ end -}}
{{- if and $v.auth.jwks (not $public) }}{{ fail "auth.jwks is of use with RS256 and ES256 only, which auth.algorithms lacks" }}{{ end -}}
{{- if not (and $v.auth.audience $v.auth.issuer) }}{{ fail "auth needs auth.audience and auth.issuer" }}{{ end -}}
{{- if and $v.auth.cookie (has "*" $v.node.allowedOrigins) }}{{ fail "auth.cookie with * in node.allowedOrigins would let every page use the cookies of its visitors" }}{{ end -}}
{{- end }}
{{- end }}

{{/* (list $ labels): metadata of what Prometheus and Grafana find by labels of their own. */}}
{{- define "parallax.monitorMetadata" -}}
{{- $root := index . 0 -}}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- merge (include "parallax.labels" (list $root "node") | fromYaml) (index . 1) | toYaml | nindent 2 }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What viewers of the load test show, where tokens are needed. */}}
{{- define "parallax.loadToken" -}}
{{- with .Values.loadTest.tokenSecret }}{{- if .name }}
- name: TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}
{{- end }}{{ end }}
{{- end }}
