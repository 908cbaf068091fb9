#!/bin/bash
# Runs as root whenever a learner's notebook instance starts: clones the workshop, makes its kernel, and has cron stop the
# instance when it is idle. Only /home/ec2-user/SageMaker outlives a stop, so the rest is done each time.
#
# write.py puts lines before this that set what the template's parameters say, and write stop_when_idle.py to $idle.
set -eu
: "${REPOSITORY:?}" "${BRANCH:?}" "${IDLE_MINUTES:?}" "${REGION:?}" "${idle:?}"

# The instance's name is sagemaker-byoa-LEARNER.
metadata=${METADATA:-/opt/ml/metadata/resource-metadata.json}
instance=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["ResourceName"])' "$metadata")
learner=${instance#sagemaker-byoa-}

# shellcheck disable=SC2317,SC2329  # it runs in the background, below
set_up() {
    # nginx and the compiler make the labs complete; they go on without.
    dnf install --quiet --assumeyes git make python3.11 cronie || echo "dnf cannot install what is needed"
    dnf install --quiet --assumeyes nginx gcc || echo "without nginx or gcc"
    systemctl enable --now crond || echo "cron does not run: nothing stops this instance when it is idle"
    echo "*/5 * * * * root /usr/bin/python3 $idle $instance $REGION $IDLE_MINUTES >>/var/log/stop-when-idle.log 2>&1" \
        >"${PREFIX:-}/etc/cron.d/stop-when-idle"
    sudo --user ec2-user --set-home env REPOSITORY="$REPOSITORY" BRANCH="$BRANCH" REGION="$REGION" LEARNER="$learner" \
        ROLE="$instance" bash -eu <<'LEARNER'
cd ~/SageMaker
[ -d sagemaker-byoa ] || git clone --quiet --branch "$BRANCH" "$REPOSITORY" sagemaker-byoa
cd sagemaker-byoa
make setup PYTHON=python3.11
.venv/bin/python -m ipykernel install --user --name sagemaker-byoa --display-name "sagemaker-byoa ($LEARNER)" \
    --env WORKSHOP_TARGET aws --env WORKSHOP_LEARNER "$LEARNER" --env WORKSHOP_ROLE "$ROLE" --env AWS_DEFAULT_REGION "$REGION"
echo "ready: open sagemaker-byoa/labs/00_setup.ipynb with the kernel sagemaker-byoa ($LEARNER)"
LEARNER
}

# A script that takes five minutes fails the start, and this one waits for package indexes.
set_up >"${LOG:-/home/ec2-user/SageMaker/setup.log}" 2>&1 &
