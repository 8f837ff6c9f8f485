#!/usr/bin/env bash
# Shows rules and dashboard at work on a server of this machine, with Debian's prometheus alone:
#
#   dogbreed serve --run runs/exp1 &
#   cloudbuild/monitoring/show.sh [HOST:PORT of the server]
#
# Prometheus' own console draws the panels of dashboard.json, each as curves; Grafana, which draws
# them as they are meant, is not in Debian.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
listen=${LISTEN:-127.0.0.1:9090}
folder=$(mktemp -d)
trap 'trap "" INT TERM; kill $(jobs -p) 2> /dev/null; wait; rm -rf "$folder"' EXIT
trap exit INT TERM
cat > "$folder/prometheus.yml" <<END
global: {scrape_interval: 5s, evaluation_interval: 5s}
rule_files: [$here/alerts.yaml]
scrape_configs:
  - job_name: dogbreed
    static_configs: [{targets: ["${1:-127.0.0.1:8000}"]}]
END
python3 "$here/console.py" > "$folder/dogbreed.html"
echo "http://$listen/consoles/dogbreed.html and http://$listen/classic/alerts"
prometheus --config.file "$folder/prometheus.yml" --storage.tsdb.path "$folder/data" \
    --web.listen-address "$listen" --web.console.templates "$folder" --log.level warn &
wait
