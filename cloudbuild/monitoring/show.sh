#!/usr/bin/env bash
# Shows the rules at work on a server of this machine, with Debian's prometheus:
#
#   dogbreed serve --run runs/exp1 &
#   cloudbuild/monitoring/show.sh [HOST:PORT of the server]     # then http://127.0.0.1:9090/alerts
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/prometheus.yml" <<END
global: {scrape_interval: 5s, evaluation_interval: 5s}
rule_files: [$here/alerts.yaml]
scrape_configs:
  - job_name: dogbreed
    static_configs: [{targets: ["${1:-127.0.0.1:8000}"]}]
END
prometheus --config.file "$folder/prometheus.yml" --storage.tsdb.path "$folder/data" \
    --web.listen-address "${LISTEN:-127.0.0.1:9090}"
