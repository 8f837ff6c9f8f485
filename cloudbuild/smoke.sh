#!/usr/bin/env bash
# Asks a tagged revision of Cloud Run, which has no traffic yet, for its health and for breeds:
#   smoke.sh SERVICE REGION TAG
set -euo pipefail
service=$1 region=$2 tag=$3

url=$(gcloud run services describe "$service" --region "$region" --format json |
    python3 -c 'import json, sys
for one in json.load(sys.stdin)["status"]["traffic"]:
    if one.get("tag") == sys.argv[1]:
        print(one["url"])' "$tag")
[ -n "$url" ] || { echo "smoke: no revision with tag $tag" >&2; exit 1; }
token=$(gcloud auth print-identity-token)

# From a file, so that the token is in no process' arguments.
ask() { curl --fail --silent --show-error --max-time 60 --retry 5 --retry-all-errors -H @- "$@" <<< "Authorization: Bearer $token"; }

ask "$url/ready" > /dev/null
answer=$(ask -F imagefiles=@.github/images/sample.png "$url/predict")
case $answer in
*'"breed"'*) echo "smoke: $url answers: ${answer:0:200}" ;;
*) echo "smoke: $url/predict gives no breed: ${answer:0:500}" >&2; exit 1 ;;
esac
