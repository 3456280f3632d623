{{/* What a container of kielink's and its volume are, for this chart's own pods and for pods of a chart that depends on it. */}}

{{- define "kielink.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kielink.labels" -}}
app.kubernetes.io/name: kielink
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* A part of a number, for each replica. */}}
{{- define "kielink.part" -}}
{{- $part := div .of .replicas -}}
{{- if lt (int $part) 1 -}}{{- fail (printf "central.%s is %v, which %v replicas cannot divide among them: raise it, lower central.replicas.max, or share a Redis (central.shared.secret)" .name .of .replicas) -}}{{- end -}}
{{- $part -}}
{{- end -}}

{{/* Variables that follow from values, under those in `settings`. */}}
{{- define "kielink.settings" -}}
{{- $env := dict "KIE_API_KEY_FILE" (printf "/run/secrets/kielink/%s" .root.Values.key.item) "KIELINK__ADMIN__LISTEN" "0.0.0.0:9090" -}}
{{- if .sidecar -}}
{{- $_ := set $env "KIELINK__SERVER__LISTEN" "127.0.0.1:8080" -}}
{{- else -}}
{{- $_ := set $env "KIELINK__SERVER__LISTEN" "0.0.0.0:8080" -}}
{{- $_ := set $env "KIELINK__SERVER__DRAIN_DELAY" "5s" -}}
{{- with .root.Values.central -}}
{{- $most := .replicas.max -}}
{{- if .shared.secret -}}
{{- $_ := set $env "KIELINK__SHARED__URL_FILE" (printf "/run/secrets/kielink-shared/%s" .shared.item) -}}
{{- $_ := set $env "KIELINK__SHARED__REPLICAS" $most -}}
{{- $_ := set $env "KIELINK__UPSTREAM__RATE" .rate -}}
{{- $_ := set $env "KIELINK__UPSTREAM__BURST" .burst -}}
{{- else -}}
{{- $_ := set $env "KIELINK__UPSTREAM__RATE" (include "kielink.part" (dict "name" "rate" "of" .rate "replicas" $most)) -}}
{{- $_ := set $env "KIELINK__UPSTREAM__BURST" (include "kielink.part" (dict "name" "burst" "of" .burst "replicas" $most)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := mergeOverwrite $env .root.Values.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end -}}
{{- end -}}

{{- define "kielink.container" -}}
name: kielink
image: {{ include "kielink.image" .root }}
env:
  {{- include "kielink.settings" . | nindent 2 }}
ports:
  {{- if not .sidecar }}
  - name: data
    containerPort: 8080
  {{- end }}
  - name: admin
    containerPort: 9090
startupProbe:
  httpGet: {path: /startupz, port: admin}
  periodSeconds: 1
  failureThreshold: 30
# The process alone, also while it stops.
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 2
  failureThreshold: 3
# Never fails because of kie.ai.
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
# No limit on the CPU: callers would wait out the throttling.
resources:
  requests: {cpu: {{ ternary "20m" "100m" .sidecar }}, memory: {{ .memory }}}
  limits: {memory: {{ .memory }}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  # The folder, and not the one file by subPath, which would never follow a new key.
  - name: kie-api-key
    mountPath: /run/secrets/kielink
    readOnly: true
  {{- if and (not .sidecar) .root.Values.central.shared.secret }}
  - name: kielink-shared
    mountPath: /run/secrets/kielink-shared
    readOnly: true
  {{- end }}
{{- end -}}

{{/* For initContainers of a pod. */}}
{{- define "kielink.sidecar" -}}
- restartPolicy: Always
  {{- include "kielink.container" (dict "root" . "sidecar" true "memory" .Values.sidecar.memory) | nindent 2 }}
{{- end -}}

{{/* For its volumes. kielink's user is not root, and only kielink mounts it: hence the mode. */}}
{{- define "kielink.volume" -}}
- name: kie-api-key
  secret:
    secretName: {{ .Values.key.secret }}
    defaultMode: 0444
    items:
      - {key: {{ .Values.key.item }}, path: {{ .Values.key.item }}}
{{- end -}}
