{{- define "barograph.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "barograph.fullname" -}}
{{- $name := include "barograph.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "barograph.selectorLabels" -}}
app.kubernetes.io/name: {{ include "barograph.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "barograph.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "barograph.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "barograph.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "barograph.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "barograph.priorityClassName" -}}
{{- if .Values.priorityClass.create }}
{{- default (printf "%s-%s" .Release.Namespace (include "barograph.fullname" .)) .Values.priorityClass.name }}
{{- else }}
{{- .Values.priorityClass.name }}
{{- end }}
{{- end }}

{{- define "barograph.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* The default user and group id. 107 is the user of KubeVirt's QEMUs. A libvirt daemon accepts only clients with ids that
       it can resolve, and 65534 (`nobody`) exists on every host. */ -}}
{{- define "barograph.defaultId" -}}
{{- dict "kubevirt" 107 "libvirt" 65534 | dig .Values.preset 10001 }}
{{- end }}

{{- /* Not with `default`, which would take root's 0 for an empty value. */ -}}
{{- define "barograph.user" -}}
{{- $default := include "barograph.defaultId" . }}
{{- kindIs "invalid" .Values.runAs.user | ternary $default .Values.runAs.user | int64 }}
{{- end }}

{{- define "barograph.group" -}}
{{- $default := include "barograph.defaultId" . }}
{{- kindIs "invalid" .Values.runAs.group | ternary $default .Values.runAs.group | int64 }}
{{- end }}

{{- define "barograph.webAddress" -}}
{{- default (.Values.hostNetwork | ternary "127.0.0.1" "0.0.0.0") .Values.web.address }}
{{- end }}

{{- /* The address of the kubelet's probes, if the agent listens on the node's loopback only. Empty: the pod's. */ -}}
{{- define "barograph.probeHost" -}}
{{- $address := include "barograph.webAddress" . | trimAll "[]" }}
{{- if or (hasPrefix "127." $address) (eq $address "::1") }}{{ $address }}{{ end }}
{{- end }}

{{- define "barograph.probe" -}}
{{- $host := include "barograph.probeHost" (first .) -}}
{path: {{ last . }}, port: web{{ with $host }}, host: {{ . | quote }}{{ end }}}
{{- end }}

{{- define "barograph.dnsPolicy" -}}
{{- default (.Values.hostNetwork | ternary "ClusterFirstWithHostNet" "ClusterFirst") .Values.dnsPolicy }}
{{- end }}

{{- /* The SecurityContextConstraints that the pods use. Empty: those of all service accounts. */ -}}
{{- define "barograph.sccName" -}}
{{- with .Values.openshift.securityContextConstraints }}
{{- default (.create | ternary (printf "%s-%s" $.Release.Namespace (include "barograph.fullname" $)) "") .name }}
{{- end }}
{{- end }}

{{- /* The OTLP endpoint if it contains a variable of the node, such as $(HOST_IP), which only the kubelet can replace. */ -}}
{{- define "barograph.nodeEndpoint" -}}
{{- with dig "otlp" "endpoint" "" .Values.config }}
{{- if contains "$(" . }}{{ . }}{{ end }}
{{- end }}
{{- end }}

{{- /* The directory of the node to mount for the monitors. Empty: config.monitors and extraVolumes provide it. */ -}}
{{- define "barograph.socketsMount" -}}
{{- with .Values.sockets }}
{{- if .directory }}
{{- $parent := eq (include "barograph.user" $) "0" | ternary .directory (dir .directory) }}
{{- default $parent .mount }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The ports of the brokers, the token endpoint and the OTLP backend, as far as the configuration names them. */ -}}
{{- define "barograph.egressPorts" -}}
{{- $ports := .Values.networkPolicy.egressPorts }}
{{- $servers := dig "kafka" "bootstrap_servers" list .Values.config }}
{{- range kindIs "slice" $servers | ternary $servers (splitList "," (toString $servers)) }}
{{- with regexFind "[0-9]+ *$" . }}{{ $ports = append $ports (trim . | int) }}{{ end }}
{{- end }}
{{- range list (dig "otlp" "endpoint" "" .Values.config) (dig "kafka" "sasl" "oauth" "token_endpoint" "" .Values.config) | compact }}
{{- $port := regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" }}
{{- $port = default (hasPrefix "https:" . | ternary "443" "80") $port }}
{{- $ports = append $ports (int $port) }}
{{- end }}
{{- $whole := list }}
{{- range $ports }}{{ $whole = append $whole (int .) }}{{ end }}
{{- toJson (uniq $whole) }}
{{- end }}

{{- /* Refuses values that contradict each other, which a schema cannot express. */ -}}
{{- define "barograph.validate" -}}
{{- $sockets := .Values.sockets }}
{{- if $sockets.directory }}
{{- $mount := include "barograph.socketsMount" . }}
{{- if eq $mount "/" }}
{{- fail (printf "sockets.mount: the parent of sockets.directory, %s, is the node's root; name the directory itself, or move the sockets to a directory further down" $sockets.directory) }}
{{- end }}
{{- if not (hasPrefix (printf "%s/" $mount) (printf "%s/" $sockets.directory)) }}
{{- fail (printf "sockets.mount: %s is not above sockets.directory, %s; set it to that directory or one above it, or leave it empty for its parent" $mount $sockets.directory) }}
{{- end }}
{{- else if and (eq .Values.preset "sockets") (not .Values.config.monitors) }}
{{- fail "sockets.directory: missing; name the directory on the nodes that contains the monitors of the QEMUs, such as /run/vm" }}
{{- end }}
{{- $user := include "barograph.user" . }}
{{- if and (eq $user "0") $sockets.directory (has (include "barograph.socketsMount" .) (list "/run" "/var/run" "/var" "/var/lib" "/tmp")) }}
{{- fail (printf "sockets.mount: in %s root could connect to the node's other services, such as the container runtime; mount %s itself, or run as another user" (include "barograph.socketsMount" .) $sockets.directory) }}
{{- end }}
{{- with .Values.secret }}
{{- $keys := or .kafkaPasswordKey .kafkaTokenKey .kafkaClientSecretKey .otlpHeadersKey }}
{{- if and $keys (not .existingSecret) }}
{{- fail "secret.existingSecret: missing, but a key of it is named; name the Secret that has the key" }}
{{- else if and .existingSecret (not $keys) }}
{{- fail "secret.existingSecret: no key of it is used; set secret.kafkaPasswordKey, secret.kafkaTokenKey, secret.kafkaClientSecretKey or secret.otlpHeadersKey" }}
{{- end }}
{{- end }}
{{- $variables := include "barograph.nodeEndpoint" . | replace "$(HOST_IP)" "" | replace "$(NODE_NAME)" "" }}
{{- if contains "$(" $variables }}
{{- fail (printf "config.otlp.endpoint: %s has an unknown variable; use $(HOST_IP) or $(NODE_NAME)" (include "barograph.nodeEndpoint" .)) }}
{{- end }}
{{- if include "barograph.probeHost" . }}
{{- if not .Values.hostNetwork }}
{{- fail (printf "web.address: the kubelet cannot connect to %s of a pod; leave it empty, or set hostNetwork" .Values.web.address) }}
{{- end }}
{{- if or .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- fail (printf "web.address: Prometheus cannot connect to %s of a node; set an address that it can connect to, such as 0.0.0.0" (include "barograph.webAddress" .)) }}
{{- end }}
{{- end }}
{{- if and (include "barograph.sccName" .) (eq (include "barograph.serviceAccountName" .) "default") }}
{{- fail "openshift.securityContextConstraints: the service account default is that of every pod in the namespace; set serviceAccount.create, or serviceAccount.name" }}
{{- end }}
{{- if and (eq .Values.dnsPolicy "None") (not .Values.dnsConfig.nameservers) }}
{{- fail "dnsConfig.nameservers: missing, but dnsPolicy None uses no others; name the servers" }}
{{- end }}
{{- if and .Values.retire (eq .Values.updateStrategy.type "OnDelete") }}
{{- fail "retire: with updateStrategy.type OnDelete no pod would be replaced; set it to RollingUpdate too" }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if and (hasKey . "value") (regexMatch "^(BAROGRAPH_KAFKA__SASL__PASSWORD|BAROGRAPH_OTLP__HEADERS|OTEL_EXPORTER_OTLP_(METRICS_)?HEADERS)$" .name) }}
{{- fail (printf "extraEnv: %s is a secret, and everyone who may read the DaemonSet could read its value; use valueFrom.secretKeyRef, or the value secret" .name) }}
{{- end }}
{{- end }}
{{- if and .Values.capabilities (ne $user "0") }}
{{- fail (printf "capabilities: %s has no effect with runAs.user %s, because Kubernetes adds capabilities for root only; set runAs.user to 0, or remove them" (join ", " .Values.capabilities) $user) }}
{{- end }}
{{- if and (not .Values.state.path) (eq (dig "spool" "mode" "" .Values.config) "disk") }}
{{- fail "config.spool.mode: disk needs a directory on the node; set state.path, or remove the mode" }}
{{- end }}
{{- if and .Values.retire (not .Values.state.path) }}
{{- fail "retire: not needed without state.path, because each pod restores the intervals when it ends and there is no state; uninstall the release" }}
{{- end }}
{{- if and .Values.appArmorProfile (semverCompare "<1.30-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "appArmorProfile: Kubernetes %s has no such field, only 1.30 and later; set the annotation container.apparmor.security.beta.kubernetes.io/barograph in podAnnotations" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if and .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- fail "serviceMonitor.enabled: podMonitor is enabled too, so each pod would be scraped twice; choose one" }}
{{- end }}
{{- end }}

{{- /* The agent's configuration: the operator's settings, and those that the pod determines. */ -}}
{{- define "barograph.config" -}}
{{- $config := deepCopy .Values.config }}
{{- with .Values.sockets }}
{{- if .directory }}
{{- $monitor := dict "glob" (printf "/host%s/%s" .directory .glob) }}
{{- range $name := list "access" "pattern" "interval" "policy" }}
{{- with index $.Values.sockets $name }}{{ $_ := set $monitor $name . }}{{ end }}
{{- end }}
{{- $_ := set $config "monitors" (prepend (default list $config.monitors) $monitor) }}
{{- end }}
{{- end }}
{{- if eq .Values.preset "libvirt" }}
{{- $uri := printf "qemu+unix:///system?socket=/host%s/%s" .Values.libvirt.directory .Values.libvirt.socket }}
{{- $place := dict "uri" $uri "policy" "observe" }}
{{- with .Values.libvirt.metadata }}{{ $_ := set $place "metadata" . }}{{ end }}
{{- with .Values.libvirt.namePattern }}{{ $_ := set $place "name_pattern" . }}{{ end }}
{{- $_ := set $config "libvirt" (prepend (default list $config.libvirt) $place) }}
{{- else if eq .Values.preset "kubevirt" }}
{{- $sockets := "/pods/*/volumes/kubernetes.io~empty-dir/libvirt-runtime/virtqemud-sock" }}
{{- $place := dict "sockets" $sockets "policy" "observe" }}
{{- with .Values.kubevirt.namePattern }}{{ $_ := set $place "name_pattern" . }}{{ end }}
{{- $_ := set $config "libvirt" (prepend (default list $config.libvirt) $place) }}
{{- end }}
{{- if not .Values.host.id }}
{{- $_ := set $config "host" (dict "id_file" "/host/machine-id") }}
{{- end }}
{{- if include "barograph.nodeEndpoint" . }}
{{- $_ := unset $config.otlp "endpoint" }}
{{- end }}
{{- $_ := set $config "state_directory" "/var/lib/barograph" }}
{{- if not .Values.state.path }}
{{- $_ := set $config "spool" (merge (dict "mode" "none") (default dict $config.spool)) }}
{{- end }}
{{- with .Values.secret }}
{{- if .kafkaPasswordKey }}
{{- $sasl := dict "sasl" (dict "password_file" "/etc/barograph-secret/kafka-password") }}
{{- $_ := set $config "kafka" (mergeOverwrite (default dict $config.kafka) $sasl) }}
{{- end }}
{{- $oauth := dict }}
{{- if .kafkaTokenKey }}{{ $_ := set $oauth "token_file" "/etc/barograph-secret/kafka-token" }}{{ end }}
{{- if .kafkaClientSecretKey }}{{ $_ := set $oauth "client_secret_file" "/etc/barograph-secret/kafka-client-secret" }}{{ end }}
{{- if $oauth }}
{{- $_ := set $config "kafka" (mergeOverwrite (default dict $config.kafka) (dict "sasl" (dict "oauth" $oauth))) }}
{{- end }}
{{- if .otlpHeadersKey }}
{{- $_ := set $config "otlp" (merge (dict "headers_file" "/etc/barograph-secret/otlp-headers") (default dict $config.otlp)) }}
{{- end }}
{{- end }}
{{- $service := printf "%s.%s.svc" (include "barograph.fullname" .) .Release.Namespace }}
{{- $hosts := concat (list $service (printf "%s.cluster.local" $service)) .Values.web.allowedHosts }}
{{- $_ := set $config "web" (dict "listen" (printf "%s:%d" (include "barograph.webAddress" .) (int .Values.web.port)) "allowed_hosts" $hosts) }}
{{- $_ := set $config "shutdown" (dict "deadline" (printf "%ds" (int .Values.shutdownDeadlineSeconds))) }}
{{- toYaml $config }}
{{- end }}

{{- /* The security context of every container that runs the agent. */ -}}
{{- define "barograph.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with .Values.capabilities }}
  add: {{ toJson . }}
  {{- end }}
{{- with .Values.appArmorProfile }}
appArmorProfile: {{ toJson . }}
{{- end }}
{{- with .Values.seLinuxOptions }}
seLinuxOptions: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "barograph.env" -}}
- name: BAROGRAPH_CONFIG
  value: /etc/barograph/barograph.yaml
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: HOST_IP # for a backend on the node, such as a Collector
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
- name: BAROGRAPH_HOST__NAME # the pod's own name is not the host's
  value: $(NODE_NAME)
{{- with .Values.host.id }}
- name: BAROGRAPH_HOST__ID
  value: {{ . | quote }}
{{- end }}
{{- with include "barograph.nodeEndpoint" . }}
- name: BAROGRAPH_OTLP__ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "barograph.volumeMounts" -}}
- {name: config, mountPath: /etc/barograph, readOnly: true}
{{- if not .Values.host.id }}
- {name: machine-id, mountPath: /host/machine-id, readOnly: true}
{{- end }}
- {name: state, mountPath: /var/lib/barograph}
{{- if .Values.secret.existingSecret }}
- {name: secret, mountPath: /etc/barograph-secret, readOnly: true}
{{- end }}
{{- with include "barograph.socketsMount" . }}
# Read-only prevents creating files there, but not connecting to a socket.
- {name: sockets, mountPath: {{ printf "/host%s" . | quote }}, readOnly: true, mountPropagation: HostToContainer}
{{- end }}
{{- if eq .Values.preset "libvirt" }}
- {name: libvirt, mountPath: {{ printf "/host%s" .Values.libvirt.directory | quote }}, readOnly: true, mountPropagation: HostToContainer}
{{- else if eq .Values.preset "kubevirt" }}
# A short path, because a socket's path may have at most 107 bytes and libvirt's client cannot use a longer one.
- {name: pods, mountPath: /pods, readOnly: true, mountPropagation: HostToContainer}
{{- if .Values.kubevirt.cgroups }}
- {name: cgroups, mountPath: /sys/fs/cgroup, readOnly: true, mountPropagation: HostToContainer}
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The endpoint of a PodMonitor and a ServiceMonitor. */ -}}
{{- define "barograph.endpoint" -}}
- port: web
  path: /metrics
  trackTimestampsStaleness: true # series of a VM that is gone end at the next scrape
  honorTimestamps: true # a guest's values carry the time of their last-update
  {{- with .interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with .relabelings }}
  relabelings: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .metricRelabelings }}
  metricRelabelings: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
