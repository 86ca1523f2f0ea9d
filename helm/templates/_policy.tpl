{{- define "parallax.policyHead" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "parallax.fullname" (index . 0) }}-{{ index . 1 }}
  {{- include "parallax.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "parallax.selector" . | nindent 6 }}
{{- end }}
{{/* To the cluster's names. */}}
{{- define "parallax.policyToNames" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}
{{/* As viewers, to the nodes. */}}
{{- define "parallax.policyToNodes" -}}
- ports:
    - {port: 8080}
  to:
    - podSelector:
        matchLabels:
          {{- include "parallax.selector" (list . "node") | nindent 10 }}
{{- end }}
{{- define "parallax.policyEgress" -}}
{{ include "parallax.policyToNames" . }}
{{- if .Values.valkey.enabled }}
- ports:
    - {port: 6379}
  to:
    - podSelector:
        matchLabels:
          {{- include "parallax.selector" (list . "valkey") | nindent 10 }}
{{- else }}
- ports:
    {{- range .Values.networkPolicy.redisPorts }}
    - {port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.redisTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
