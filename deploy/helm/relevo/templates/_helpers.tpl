{{- define "relevo.labels" -}}
app.kubernetes.io/name: relevo
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "relevo.selector" -}}
app.kubernetes.io/name: relevo
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "relevo.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What every pod is allowed: nothing but its work. */}}
{{- define "relevo.podSecurity" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "relevo.container" -}}
image: {{ include "relevo.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
env:
  - name: RELEVO_DATABASE_URL_FILE
    value: /run/secrets/relevo/database_url
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.envSecrets }}
envFrom:
  {{- range . }}
  - secretRef: { name: {{ . | quote }} }
  {{- end }}
{{- end }}
volumeMounts:
  - { name: database, mountPath: /run/secrets/relevo, readOnly: true }
  - { name: config, mountPath: /etc/relevo, readOnly: true }
  - { name: data, mountPath: /data }
  - { name: tmp, mountPath: /tmp }
{{- end }}

{{- define "relevo.volumes" -}}
- name: database
  secret:
    secretName: {{ .root.Values.databaseSecret | quote }}
    items: [{ key: database_url, path: database_url }]
- name: config
  configMap: { name: {{ .root.Release.Name }}-config }
- name: tmp
  emptyDir: { medium: Memory, sizeLimit: 16Mi }
- name: data
  {{- if .shared }}
  persistentVolumeClaim:
    claimName: {{ .root.Values.data.existingClaim | default (printf "%s-data" .root.Release.Name) | quote }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{/* An update that cannot start must not end what runs; liveness is slower than readiness. */}}
{{- define "relevo.probes" -}}
startupProbe:
  httpGet: { path: /readyz, port: {{ . }} }
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: { path: /readyz, port: {{ . }} }
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: { path: /livez, port: {{ . }} }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "relevo.workerPod" -}}
{{ include "relevo.podSecurity" .root }}
# Longer than worker.grace_seconds, so that what runs is finished or given back.
terminationGracePeriodSeconds: {{ add .root.Values.graceSeconds 30 }}
containers:
  - name: worker
    {{- with .command }}
    command: {{ toJson . }}
    {{- end }}
    args: {{ .args | toJson }}
    {{- $env := list (dict "name" "RELEVO_WORKER_CONCURRENCY" "value" (toString .root.Values.worker.concurrency)) (dict "name" "RELEVO_WORKER_GRACE_SECONDS" "value" (toString .root.Values.graceSeconds)) }}
    {{- with .root.Values.worker.queues }}
    {{- $env = append $env (dict "name" "RELEVO_WORKER_QUEUES" "value" (join "," .)) }}
    {{- end }}
    {{- include "relevo.container" (dict "root" .root "env" $env) | nindent 4 }}
    ports: [{ name: metrics, containerPort: 9101, protocol: TCP }]
    {{- include "relevo.probes" "metrics" | nindent 4 }}
    resources: {{ toYaml .root.Values.worker.resources | nindent 6 }}
volumes: {{ include "relevo.volumes" (dict "root" .root "shared" true) | nindent 2 }}
{{- end }}
