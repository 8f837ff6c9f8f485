#!/usr/bin/env bash
# The one-time set-up of a Google Cloud project; run again, it changes nothing that is right already.
#
#   cloudbuild/setup.sh --project my-project [--region us-central1] [--github owner/name] [--dry-run]
#
# Makes: two buckets (one versioned), a repository of images that cleans itself up, four service
# accounts with no more rights than they need, an empty secret for W&B's key, and with --github a
# federation, so that workflows need no key. --dry-run asks for nothing and prints every command.
set -euo pipefail
cd "$(dirname "$0")"

project= region=us-central1 github= dry_run=
usage() { sed -n '2,8s/^# \{0,1\}//p' setup.sh; }
while [ $# -gt 0 ]; do
    case $1 in
    --project) project=${2:?--project needs a value}; shift 2 ;;
    --region) region=${2:?--region needs a value}; shift 2 ;;
    --github) github=${2:?--github needs a value}; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done
[ -n "$project" ] || { echo "setup.sh: --project is missing" >&2; exit 2; }
case $github in
'' | */*) ;;
*) echo "setup.sh: --github $github: must be owner/name" >&2; exit 2 ;;
esac

# An account or an interface that is new is known everywhere only after a while.
run() {
    printf '+ gcloud'; printf ' %q' "$@"; printf '\n'
    [ -z "$dry_run" ] || return 0
    for pause in 10 30; do
        gcloud "$@" --quiet && return
        sleep $pause
    done
    gcloud "$@" --quiet
}
# there WORDS…: whether a `describe` finds it; in a dry run nothing is there.
there() { [ -z "$dry_run" ] && gcloud "$@" > /dev/null 2>&1; }

bucket=gs://$project-dogbreed
staging=gs://$project-dogbreed-staging
account() { echo "dogbreed-$1@$project.iam.gserviceaccount.com"; }

echo "# interfaces"
run services enable --project "$project" \
    aiplatform.googleapis.com artifactregistry.googleapis.com cloudbuild.googleapis.com \
    iamcredentials.googleapis.com run.googleapis.com secretmanager.googleapis.com \
    sts.googleapis.com

echo "# buckets: data, runs and models; and what is sent to builds, for a week"
for one in "$bucket" "$staging"; do
    there storage buckets describe "$one" ||
        run storage buckets create "$one" --project "$project" --location "$region" \
            --uniform-bucket-level-access --public-access-prevention
done
run storage buckets update "$bucket" --versioning --lifecycle-file lifecycle.json
run storage buckets update "$staging" --lifecycle-file lifecycle-staging.json

echo "# images, which are deleted when nobody needs them"
there artifacts repositories describe dogbreed --project "$project" --location "$region" ||
    run artifacts repositories create dogbreed --project "$project" --location "$region" \
        --repository-format docker --description "dogbreed: train and serve"
run artifacts repositories set-cleanup-policies dogbreed --project "$project" \
    --location "$region" --policy cleanup.json --no-dry-run

echo "# service accounts: builds, training jobs, the server, and workflows on GitHub"
for name in build train serve deploy; do
    there iam service-accounts describe "$(account $name)" --project "$project" ||
        run iam service-accounts create "dogbreed-$name" --project "$project" \
            --display-name "dogbreed: $name"
done

on_project() {
    run projects add-iam-policy-binding "$project" --member "serviceAccount:$(account "$1")" \
        --role "roles/$2" --condition None
}
on_bucket() {
    run storage buckets add-iam-policy-binding "$2" --member "serviceAccount:$(account "$1")" \
        --role "roles/$3" --condition "${4:-None}"
}
acts_as() {
    run iam service-accounts add-iam-policy-binding "$(account "$2")" --project "$project" \
        --member "serviceAccount:$(account "$1")" --role roles/iam.serviceAccountUser
}

on_project build logging.logWriter
on_project build run.developer
on_project build run.invoker # asks a new revision
on_bucket build "$bucket" storage.objectViewer
on_bucket build "$staging" storage.objectViewer
acts_as build serve
run artifacts repositories add-iam-policy-binding dogbreed --project "$project" \
    --location "$region" --member "serviceAccount:$(account build)" \
    --role roles/artifactregistry.writer

on_project train logging.logWriter
on_bucket train "$bucket" storage.objectUser

# The server reads models, where somebody lets it: below production/.
on_bucket serve "$bucket" storage.objectViewer \
    "title=models,expression=resource.name.startsWith(\"projects/_/buckets/${bucket#gs://}/objects/production/\")"

on_project deploy cloudbuild.builds.editor
on_project deploy serviceusage.serviceUsageConsumer
on_project deploy aiplatform.user
on_bucket deploy "$staging" storage.objectUser
on_bucket deploy "$staging" storage.legacyBucketReader # gcloud builds submit looks for the bucket
on_bucket deploy "$bucket" storage.objectUser # the settings of jobs
acts_as deploy build
acts_as deploy train

echo "# W&B's key: a secret without a value; the value never passes through this script"
there secrets describe wandb --project "$project" ||
    run secrets create wandb --project "$project" --replication-policy automatic
run secrets add-iam-policy-binding wandb --project "$project" \
    --member "serviceAccount:$(account train)" --role roles/secretmanager.secretAccessor

if [ -n "$github" ]; then
    echo "# workflows of $github, on its branches dev and main, become dogbreed-deploy without a key"
    number=PROJECT_NUMBER
    [ -n "$dry_run" ] || number=$(gcloud projects describe "$project" --format 'value(projectNumber)')
    there iam workload-identity-pools describe github --project "$project" --location global ||
        run iam workload-identity-pools create github --project "$project" --location global
    there iam workload-identity-pools providers describe github --project "$project" \
        --location global --workload-identity-pool github ||
        run iam workload-identity-pools providers create-oidc github --project "$project" \
            --location global --workload-identity-pool github \
            --issuer-uri https://token.actions.githubusercontent.com \
            --attribute-mapping "google.subject=assertion.sub,attribute.repository=assertion.repository" \
            --attribute-condition "assertion.repository == '$github' && assertion.ref in ['refs/heads/dev', 'refs/heads/main']"
    run iam service-accounts add-iam-policy-binding "$(account deploy)" --project "$project" \
        --role roles/iam.workloadIdentityUser --member \
        "principalSet://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/github/attribute.repository/$github"
    cat << END

Variables of the repository on GitHub (Settings, Secrets and variables, Actions; none is a secret):
  GCP_PROJECT   $project
  GCP_REGION    $region
  GCP_PROVIDER  projects/$number/locations/global/workloadIdentityPools/github/providers/github
END
fi
cat << END

W&B's key, if you have one (it is asked for, and shows nowhere):
  read -rs key && printf %s "\$key" | gcloud secrets versions add wandb --project $project --data-file -
END
