{{- define "parallax.sessions" -}}
sum(parallax_node_sessions{namespace="{{ .Release.Namespace }}",pod=~"{{ include "parallax.fullname" . }}-node-.+"})
{{- end }}
{{- define "parallax.behavior" -}}
# Whoever is on a pod that goes has to move: slowly down, at once up.
behavior:
  scaleDown:
    stabilizationWindowSeconds: {{ . }}
    policies:
      - {type: Pods, value: 1, periodSeconds: 120}
  scaleUp:
    policies:
      - {type: Pods, value: 4, periodSeconds: 30}
{{- end }}
