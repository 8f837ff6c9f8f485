#!/usr/bin/env bash
# Makes the objectives and alerts of slos.yaml, or brings them up to date; may be run again:
#
#   cloudbuild/monitoring/apply.sh PROJECT REGION SERVICE
#
# Wants gcloud, curl, and a Python with PyYAML. Who is told is for you to add to the policies; that,
# and whether one is switched off, stays as you set it.
set -euo pipefail
[[ $# -eq 3 ]] || { sed -n '2,7p' "$0" >&2; exit 2; }
project=$1 region=$2 service=$3
here=$(dirname "$0")
api=${MONITORING_API:-https://monitoring.googleapis.com}/v3
objectives=projects/$project/services/$service/serviceLevelObjectives
token=$(gcloud auth print-access-token)
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

body() { # one part of slos.yaml as JSON
    sed "s#OBJECTIVES#$objectives#g; s#PROJECT#$project#g; s#REGION#$region#g; s#SERVICE#$service#g" \
        "$here/slos.yaml" | python3 -c '
import json, sys, yaml
part = yaml.safe_load(sys.stdin)
for key in sys.argv[1:]:
    part = part[key]
print(json.dumps(part))' "$@"
}

field() { # one of standard input's JSON, such as name or alertPolicies.0.name; nothing if it is not there
    python3 -c '
import json, sys
part = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    part = part[int(key)] if key.isdigit() else part.get(key) or [{}]
print(part if isinstance(part, str) else "")' "$1"
}

call() { # METHOD PATH [OPTION…]: asks; prints the status; the answer lies in $answer
    curl --silent --show-error --output "$answer" --write-out '%{http_code}' -X "$1" "$api/$2" \
        --header @<(echo "Authorization: Bearer $token") --header 'Content-Type: application/json' "${@:3}"
}

done_with() { # NAME STATUS
    [[ $2 == 200 ]] || { cat "$answer" >&2; echo "$1: HTTP $2" >&2; exit 1; }
    echo "$1"
}

put() { # NAME COLLECTION ID PART…: make it, or change it if it is there
    local json status
    json=$(body "${@:4}")
    status=$(call POST "projects/$project/$2?$3" --data "$json")
    [[ $status != 409 ]] || status=$(call PATCH "projects/$project/$2/${3#*=}" --data "$json")
    done_with "$1" "$status"
}

put_policy() { # NAME: the same for an alert, which has no id of our choosing: its title tells it
    local json title status old
    json=$(body policies "$1")
    title=$(field displayName <<< "$json")
    status=$(call GET "projects/$project/alertPolicies" --get --data-urlencode "filter=display_name=\"$title\"")
    [[ $status == 200 ]] || done_with "alert $1" "$status"
    old=$(field alertPolicies.0.name < "$answer")
    if [[ -z $old ]]; then
        status=$(call POST "projects/$project/alertPolicies" --data "$json")
    else
        mask=displayName,combiner,severity,conditions,documentation
        status=$(call PATCH "$old?updateMask=$mask" --data "$json")
    fi
    done_with "alert $1" "$status"
}

put service services "serviceId=$service" service
for name in availability latency; do
    put "objective $name" "services/$service/serviceLevelObjectives" \
        "serviceLevelObjectiveId=$name" objectives "$name"
done
for name in availability-fast availability-slow latency-slow; do
    put_policy "$name"
done
