{{/* Labels that select the pods of one process: (list $ "web") */}}
{{- define "outbox.selector" -}}
app.kubernetes.io/name: cxone-outbox-relay
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Name and labels of an object: (list $ "web") */}}
{{- define "outbox.metadata" -}}
{{- $root := index . 0 -}}
name: {{ printf "%s-%s" $root.Release.Name (index . 1) }}
labels:
  {{- include "outbox.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* A pod's specification without its container's ports and probes, which the process adds, and its further arguments: (list $ "web" "ports: …") */}}
{{- define "outbox.pod" -}}
{{- $root := index . 0 -}}
{{- $process := index . 1 -}}
{{- $values := index $root.Values $process -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 30
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
containers:
  - name: {{ $process }}
    image: "{{ $root.Values.image.repository }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}"
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args: {{ concat (list $process) (slice . 3) (get $values "options" | default list) | toJson }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: { drop: [ALL] }
    env:
      {{- range $name, $value := merge (dict "RELAY_SHARDS" (toString $root.Values.relay.shards)) ($values.settings | default dict) $root.Values.settings }}
      - { name: {{ $name }}, value: {{ quote $value }} }
      {{- end }}
      {{- range $values.secret.keys }}
      - { name: {{ . }}_FILE, value: /run/secrets/outbox/{{ . }} }
      {{- end }}
      - { name: DYNO, valueFrom: { fieldRef: { fieldPath: metadata.name } } } # no shared disk: SQLite is refused
    {{- with index . 2 }}
    {{- nindent 4 . }}
    {{- end }}
    resources: {{ toJson $values.resources }}
    volumeMounts:
      - { name: tmp, mountPath: /tmp }
      - { name: secrets, mountPath: /run/secrets/outbox, readOnly: true }
volumes:
  - { name: tmp, emptyDir: {} }
  - { name: secrets, secret: { secretName: {{ $values.secret.name }}, defaultMode: 0440 } }
{{- end }}

{{/* Refuses values that cannot work. */}}
{{- define "outbox.check" -}}
{{- $all := merge (dict) .Values.settings .Values.web.settings .Values.relay.settings .Values.console.settings .Values.verify.settings -}}
{{- if hasPrefix "sqlite" (get $all "DATABASE_URL" | toString) -}}
{{- fail "SQLite needs a disk that web and relay share, which pods do not: use PostgreSQL, with DATABASE_URL in the Secrets" -}}
{{- end -}}
{{- if hasKey $all "DATABASE_URL" -}}
{{- fail "DATABASE_URL contains a password: put it into the Secrets, not into settings" -}}
{{- end -}}
{{- if hasKey $all "RELAY_SHARDS" -}}
{{- fail "set relay.shards instead of RELAY_SHARDS" -}}
{{- end -}}
{{- if gt (int .Values.relay.replicas) (int .Values.relay.shards) -}}
{{- fail (printf "relay.replicas is %v and relay.shards %v: a relay without a shard would have nothing to send" .Values.relay.replicas .Values.relay.shards) -}}
{{- end -}}
{{- if and .Values.ingress.enabled .Values.console.enabled (not (has "METRICS_TOKEN" .Values.console.secret.keys)) -}}
{{- fail "the ingress serves the console's /metrics too: protect them by METRICS_TOKEN in console.secret.keys" -}}
{{- end -}}
{{- if and .Values.ingress.enabled .Values.console.enabled (not .Values.console.settings.CONSOLE_PREFIX) -}}
{{- fail "the ingress serves the console below a path: set CONSOLE_PREFIX in console.settings" -}}
{{- end -}}
{{- end }}
