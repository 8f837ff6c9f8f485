#!/usr/bin/env bash
# Brings an image to Cloud Run without traffic, asks its revision for its health and for breeds, and
# only then moves the traffic there:
#
#   cloudbuild/deploy.sh SERVICE REGION IMAGE ACCOUNT ID
#
# The first 8 letters of ID, small ones or digits, end the names of the revision and of its address:
# Cloud Run takes 46 for the tag and the service together.
set -euo pipefail
[ $# = 5 ] || { sed -n '5s/^# */usage: /p' "$0" >&2; exit 2; }
service=$1 region=$2 image=$3 account=$4 tag=b-${5:0:8} # a letter first

# The first revision of a service cannot be without traffic. An error here is none of those.
there=$(gcloud run services list --region "$region" --filter "metadata.name=$service" \
    --format 'value(metadata.name)')
traffic=--no-traffic
[ -n "$there" ] || traffic=
gcloud run deploy "$service" --region "$region" $traffic --image "$image" --tag "$tag" \
    --revision-suffix "$tag" --service-account "$account" --no-allow-unauthenticated --port 8080 \
    --cpu 2 --memory 1Gi --concurrency 32 --min-instances 0 --max-instances 3 --timeout 60 \
    --startup-probe httpGet.path=/ready,periodSeconds=2,failureThreshold=30

addresses=$(gcloud run services describe "$service" --region "$region" --format json |
    python3 -c 'import json, sys
status = json.load(sys.stdin)["status"]
print(status["url"], *(one["url"] for one in status["traffic"] if one.get("tag") == sys.argv[1]))' "$tag")
read -r audience url <<< "$addresses"
[ -n "$url" ] || { echo "deploy: no revision with tag $tag" >&2; exit 1; }
# A token for the service alone; a person's account gets none but for all services.
token=$(gcloud auth print-identity-token --audiences "$audience" 2> /dev/null ||
    gcloud auth print-identity-token)

# From a file, so that the token is in no process' arguments.
ask() { curl --fail --silent --show-error --max-time 60 --retry 5 --retry-all-errors -H @- "$@" <<< "Authorization: Bearer $token"; }

ask "$url/ready" > /dev/null
answer=$(ask -F imagefiles=@.github/images/sample.png "$url/predict")
case $answer in
*'"breed"'*) echo "deploy: $url answers: ${answer:0:200}" ;;
*) echo "deploy: $url/predict gives no breed: ${answer:0:500}" >&2; exit 1 ;;
esac

gcloud run services update-traffic "$service" --region "$region" --to-tags "$tag=100"
echo "back to an earlier one: gcloud run services update-traffic $service --region $region" \
    "--to-revisions REVISION=100"
