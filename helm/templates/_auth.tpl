{{/* Who may read what: environment variables of a node. */}}
{{- define "parallax.authEnv" -}}
{{- $auth := .Values.auth }}
{{- with $auth.algorithms }}
- {name: PARALLAX_AUTH_ALGORITHMS, value: {{ join "," . | quote }}}
{{- if has "HS256" . }}
- name: PARALLAX_AUTH_SECRET
  valueFrom:
    {{- if $auth.existingSecret.name }}
    secretKeyRef: {name: {{ $auth.existingSecret.name | quote }}, key: {{ $auth.existingSecret.key | quote }}}
    {{- else }}
    secretKeyRef: {name: {{ include "parallax.fullname" $ }}-auth, key: secret}
    {{- end }}
{{- end }}
- {name: PARALLAX_AUTH_AUDIENCE, value: {{ $auth.audience | quote }}}
- {name: PARALLAX_AUTH_ISSUER, value: {{ $auth.issuer | quote }}}
- {name: PARALLAX_AUTH_JWKS_SECONDS, value: {{ include "parallax.text" $auth.jwksSeconds | quote }}}
- {name: PARALLAX_AUTH_LEEWAY_SECONDS, value: {{ include "parallax.text" $auth.leewaySeconds | quote }}}
{{- with $auth.jwks }}
- {name: PARALLAX_AUTH_JWKS, value: {{ . | quote }}}
{{- end }}
{{- with $auth.cookie }}
- {name: PARALLAX_AUTH_COOKIE, value: {{ . | quote }}}
{{- end }}
{{- with $auth.defaultRead }}
- {name: PARALLAX_AUTH_DEFAULT_READ, value: {{ join "," . | quote }}}
{{- end }}
{{- with $auth.defaultWrite }}
- {name: PARALLAX_AUTH_DEFAULT_WRITE, value: {{ join "," . | quote }}}
{{- end }}
{{- end }}
{{- end }}
