#!/usr/bin/env bash
# Makes the objectives and alerts of slos.yaml, or brings them up to date; may be run again:
#
#   cloudbuild/monitoring/apply.sh PROJECT REGION SERVICE
#
# Wants gcloud, curl, and a Python with PyYAML. Who is told is for you to add to the policies.
set -euo pipefail
[[ $# -eq 3 ]] || { sed -n '2,6p' "$0" >&2; exit 2; }
project=$1 region=$2 service=$3
here=$(dirname "$0")
api=${MONITORING_API:-https://monitoring.googleapis.com}/v3/projects/$project
objectives=projects/$project/services/$service/serviceLevelObjectives

body() { # one part of slos.yaml as JSON
    sed "s#OBJECTIVES#$objectives#g; s#PROJECT#$project#g; s#REGION#$region#g; s#SERVICE#$service#g" \
        "$here/slos.yaml" | python3 -c '
import json, sys, yaml
part = yaml.safe_load(sys.stdin)
for key in sys.argv[1:]:
    part = part[key]
print(json.dumps(part))' "$@"
}

call() { # METHOD URL; the body comes on standard input; prints the status
    curl --silent --show-error --output /tmp/answer.$$ --write-out '%{http_code}' -X "$1" "$2" \
        -H "Authorization: Bearer $(gcloud auth print-access-token)" \
        -H 'Content-Type: application/json' --data-binary @-
}

put() { # NAME COLLECTION ID PART…: make it, or change it if it is there
    local status
    status=$(body "${@:4}" | call POST "$api/$2?$3")
    [[ $status != 409 ]] || status=$(body "${@:4}" | call PATCH "$api/$2/${3#*=}")
    [[ $status == 200 ]] || { cat /tmp/answer.$$ >&2; echo "$1: HTTP $status" >&2; exit 1; }
    echo "$1"
}

trap 'rm -f /tmp/answer.$$' EXIT
put service services "serviceId=$service" service
for name in availability latency; do
    put "objective $name" "services/$service/serviceLevelObjectives" \
        "serviceLevelObjectiveId=$name" objectives "$name"
done
for name in availability-fast availability-slow latency-slow; do
    title=$(body policies "$name" | python3 -c 'import json, sys; print(json.load(sys.stdin)["displayName"])')
    old=$(gcloud monitoring policies list --project "$project" --filter "displayName=\"$title\"" --format 'value(name)')
    [[ -z $old ]] || gcloud monitoring policies delete $old --project "$project" --quiet
    gcloud monitoring policies create --project "$project" --policy "$(body policies "$name")"
done
